"""What nodes send each other: one line of JSON with the headers, then a line for each event, ready for clients.

The other node may run a newer or an older version: kinds and fields that this one does not know are skipped, and fields
that are missing take their defaults.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as DriverUUID
from pydantic import BaseModel, ConfigDict, TypeAdapter

from chat_app.events import (
    CLIENT_EVENTS,
    Audience,
    ChatsChanged,
    Event,
    Header,
    MessagesChanged,
    NodeEvent,
    Reach,
    Recorded,
    resync,
)
from chat_app.logs import log
from chat_app.models.wire_json import as_json

_ALL: list[type[Event]] = [*CLIENT_EVENTS, *NodeEvent.__subclasses__()]
KINDS = {kind.event: kind for kind in _ALL if kind.reach is not Reach.ONE}
# Without these an event has no place in the order.
NEEDED: dict[type[Event], set[str]] = {ChatsChanged: {"chat_id"}, MessagesChanged: {"chat_id", "version"}}
_header = TypeAdapter(Header)


class Online(BaseModel):
    """Who is connected to a node: all of them if it is `whole`, else who joined and who left. `ask`: send me yours."""

    joined: list[UUID] = []
    left: dict[UUID, datetime] = {}
    whole: bool = False
    ask: bool = False


class _Event(BaseModel):
    """More fields are those of its header, and `peer_id`."""

    model_config = ConfigDict(extra="allow")

    kind: str
    # null: that of the event before.
    audience: list[tuple[str, int]] | None = None
    open_chat_id: Any = None


class Message(BaseModel):
    node: UUID
    # Counts the messages with events, of which `since` is the one before; equal without events.
    number: int
    since: int
    # Of the requests and commands whose commit this was.
    requests: list[str] = []
    # Their traceparents, where they are traced.
    traces: list[str] = []
    events: list[_Event] = []
    online: Online | None = None
    is_leaving: bool = False
    # By the clock of the other node, in seconds since 1970.
    published_at: float | None = None


def encode(node: UUID, number: int, since: int, events: Sequence[Recorded] = (), **fields: Any) -> bytes:
    """A packet of a Message with these fields."""
    message = {"node": node, "number": number, "since": since, "events": list(_heads(events)), **fields}
    return b"\n".join([as_json(message), *(event.body for event in events)])


def _heads(events: Iterable[Recorded]) -> Iterator[dict[str, Any]]:
    before: Audience | None = None
    for kind, audience, _, header, open_chat_id, peer_id in events:
        fields = zip((*Header._fields, "peer_id"), (*header, peer_id), strict=True)
        head = {name: value for name, value in fields if value}
        recipients = None if audience == before else list(audience.items())
        yield {"kind": kind.event, "audience": recipients, "open_chat_id": open_chat_id, **head}
        before = audience


def decode(packet: bytes) -> tuple[Message, list[Recorded]]:
    """A message, and its events of known kinds. Raises ValueError or TypeError."""
    head, *bodies = packet.split(b"\n")
    message = Message.model_validate_json(head)
    audience: Audience = {}
    events: list[Recorded] = []
    for event, body in zip(message.events, bodies, strict=True):
        if event.audience is not None:
            audience = {DriverUUID(user_id): seen_from for user_id, seen_from in event.audience}
        if kind := KINDS.get(event.kind):
            events.append(_open(kind, audience, body, event))
    return message, events


def _open(kind: type[Event], audience: Audience, body: bytes, event: _Event) -> Recorded:
    """An event that lacks what its kind needs becomes a resync of its audience."""
    given, open_chat_id = event.model_extra or {}, event.open_chat_id
    try:
        fields = {name: given[name] for name in NEEDED.get(kind, set()) | given.keys() & set(Header._fields)}
        if open_chat_id is not None or kind.reach is Reach.OPEN_CHAT:
            open_chat_id = UUID(open_chat_id)
        peer_id = given.get("peer_id")
        return Recorded(kind, audience, body, _header.validate_python(fields), open_chat_id, peer_id and UUID(peer_id))
    except Exception as error:
        log.warning("bus event not understood", kind=kind.event, error=type(error).__name__)
        return resync(audience, "not_understood")
