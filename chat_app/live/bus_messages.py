"""What nodes say to each other, as JSON; the other may run a version that is older or newer than this one.

What comes is checked for being whole; the content of messages and chats is taken as the node had it that told it.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as DriverUUID
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from chat_app.events import Audience, ChatsChanged, Event, MessagesChanged, Recorded, ResyncRequired
from chat_app.logs import log
from chat_app.models.chats import RemovedChat
from chat_app.models.wire_json import as_json, construct

EVENTS: dict[str, Any] = {event.__name__: event for event in get_args(Event)}


class Online(BaseModel):
    """Who has connections to a node: all of them if it is `whole`, else who came and who went. `ask`: tell me yours."""

    came: list[UUID] = []
    went: dict[UUID, datetime] = {}
    whole: bool = False
    ask: bool = False


class _Told(BaseModel):
    event: str
    data: Any = None
    # null: that of the event before.
    audience: list[tuple[str, int]] | None = None


class Message(BaseModel):
    node: UUID
    # Of these events, and of those before; equal where there are none.
    number: int
    since: int
    events: list[_Told] = []
    online: Online | None = None
    is_leaving: bool = False

    def recorded(self) -> list[Recorded]:
        """The events that this version knows. Raises whatever is wrong with an audience.

        An event that lacks what it needs becomes a resync of its audience.
        """
        audience: Audience = {}
        events: list[Recorded] = []
        for told in self.events:
            if told.audience is not None:
                audience = {DriverUUID(user_id): seen_from for user_id, seen_from in told.audience}
            if kind := EVENTS.get(told.event):
                events.append(Recorded(_event(kind, told.data), audience))
        return events


def _event(kind: Any, data: Any) -> Event:
    event: Event
    try:
        if kind is ChatsChanged:
            removed = [RemovedChat.model_validate(removal) for removal in data.get("removed", [])]
            event = _receive((kind,), {**data, "removed": removed})
        elif kind is MessagesChanged:
            event = _receive((kind,), {**data, "chat_id": UUID(data["chat_id"])})
        else:
            event = kind.model_validate(data)
    except Exception as error:
        log.warning("bus event not understood", kind=kind.__name__, error=type(error).__name__)
        event = ResyncRequired(reason="not_understood")
    return event


class _Shape:
    """The fields of a model, and which models stand in them: alone or in a list."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model
        self.fields = model.model_fields
        self.required = {name for name, field in self.fields.items() if _is_required(field)}
        models = {name: tuple(_models_in(field.annotation)) for name, field in self.fields.items()}
        self.parts = {
            name: (found, get_origin(self.fields[name].annotation) is list) for name, found in models.items() if found
        }

    def complete(self, data: dict[str, Any]) -> dict[str, Any]:
        """Without the fields that only a newer version has, and with the defaults of those that an older one lacks."""
        return {name: data[name] if name in data else _default(field) for name, field in self.fields.items()}


_shape = cache(_Shape)


def _is_required(field: FieldInfo) -> bool:
    """Without a default; that of a field that may be null is null."""
    return field.is_required() and NoneType not in get_args(field.annotation)


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _receive(models: tuple[type[BaseModel], ...], data: Any) -> Any:
    """An instance of the first of these models whose required fields are there. Raises whatever is wrong with the data.

    Values are not checked: to check every field doubled what it takes to receive a message.
    """
    if isinstance(data, BaseModel):
        return data
    for shape in map(_shape, models):
        if data.keys() == shape.fields.keys():
            fields = data
            break
    else:
        shape = next(shape for shape in map(_shape, models) if shape.required <= data.keys())
        fields = shape.complete(data)
    for name, (parts, is_list) in shape.parts.items():
        value = fields[name]
        if is_list:
            fields[name] = [_receive(parts, part) for part in value]
        elif value is not None:
            fields[name] = _receive(parts, value)
    return construct(shape.model, fields)


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
