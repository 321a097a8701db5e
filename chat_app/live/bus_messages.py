"""What nodes say to each other, as JSON.

What comes is checked for being whole; the content of messages and chats is taken as the node had it that told it.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, TypeVar, get_args
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as DriverUUID
from pydantic import BaseModel

from chat_app.events import Audience, ChatsChanged, Event, MessagesChanged, Recorded
from chat_app.models.base import as_json, trusted
from chat_app.models.chats import ChatMine, ChatShared, RemovedChat
from chat_app.models.messages import MessageShared

Whole = TypeVar("Whole", bound=BaseModel)
EVENTS: dict[str, Any] = {event.__name__: event for event in get_args(Event)}


class Online(BaseModel):
    """Who has connections to a node: all of them if it is `whole`, else who came and who went. `ask`: tell me yours."""

    came: list[UUID] = []
    went: dict[UUID, datetime] = {}
    whole: bool = False
    ask: bool = False


class _Told(BaseModel):
    event: str
    data: dict[str, Any]
    # null: that of the event before.
    audience: list[tuple[str, int]] | None


class Message(BaseModel):
    node: UUID
    # Of these events, and of those before; equal where there are none.
    number: int
    since: int
    events: list[_Told] = []
    online: Online | None = None
    is_leaving: bool = False

    def recorded(self) -> list[Recorded]:
        """Raises whatever it is, such as for what a newer version of the service tells."""
        audience: Audience = {}
        events: list[Recorded] = []
        for told in self.events:
            if told.audience is not None:
                audience = {DriverUUID(user_id): seen_from for user_id, seen_from in told.audience}
            events.append(Recorded(_event(told.event, told.data), audience))
        return events


def _event(name: str, data: dict[str, Any]) -> Event:
    kind = EVENTS[name]
    if kind is MessagesChanged:
        chat_id, messages = UUID(data["chat_id"]), [_whole(MessageShared, message) for message in data["messages"]]
        return _whole(MessagesChanged, data | {"chat_id": chat_id, "messages": messages})
    if kind is ChatsChanged:
        chats = [_whole(ChatShared, chat) for chat in data["chats"]]
        mine = [_whole(ChatMine, own) for own in data["mine"]]
        removed = [RemovedChat.model_validate(removal) for removal in data["removed"]]
        return _whole(ChatsChanged, data | {"chats": chats, "mine": mine, "removed": removed})
    event: Event = kind.model_validate(data)
    return event


def _whole(kind: type[Whole], data: dict[str, Any]) -> Whole:
    """Not checked further: to check every field doubled what it takes to hear a message."""
    if not kind.model_fields.keys() <= data.keys():
        raise KeyError(kind.__name__)
    return trusted(kind, data)


def encode(
    node: UUID,
    number: int,
    since: int,
    events: Iterable[Recorded],
    online: Online | None,
    is_leaving: bool,
) -> bytes:
    """A Message. Raises TypeError for an event that is no data."""
    message = {
        "node": node,
        "number": number,
        "since": since,
        "events": list(_told(events)),
        "online": online and online.model_dump(mode="json"),
        "is_leaving": is_leaving,
    }
    return as_json(message)


def _told(events: Iterable[Recorded]) -> Iterator[dict[str, Any]]:
    before: Audience | None = None
    for event, audience in events:
        told = None if audience == before else list(audience.items())
        yield {"event": type(event).__name__, "data": event.__dict__, "audience": told}
        before = audience
