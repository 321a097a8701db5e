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

from chat_app.events import CLIENT_EVENTS, Audience, ChatsChanged, Event, MessagesChanged, NodeEvent, Reach
from chat_app.live.envelopes import Envelope, resync
from chat_app.logs import log
from chat_app.models.wire_json import as_json

_ALL: list[type[Event]] = [*CLIENT_EVENTS, *NodeEvent.__subclasses__()]
KINDS = {kind.event: kind for kind in _ALL if kind.reach is not Reach.ONE}
FIELDS = set(Envelope._fields) - {"kind", "audience", "body"}
# Without these an event has no place in the order.
NEEDED: dict[type[Event], set[str]] = {ChatsChanged: {"chat_id"}, MessagesChanged: {"chat_id", "version"}}
_envelope = TypeAdapter(Envelope)


class Online(BaseModel):
    """Who is connected to a node: all of them if it is `whole`, else who joined and who left. `ask`: send me yours."""

    joined: list[UUID] = []
    left: dict[UUID, datetime] = {}
    whole: bool = False
    ask: bool = False


class _Header(BaseModel):
    """Of one event. More fields are those of its envelope."""

    model_config = ConfigDict(extra="allow")

    kind: str
    # null: that of the event before.
    audience: list[tuple[str, int]] | None = None


class Message(BaseModel):
    node: UUID
    # Counts the messages with events, of which `since` is the one before; equal without events.
    number: int
    since: int
    # Of the requests and commands whose commit this was.
    requests: list[str] = []
    events: list[_Header] = []
    online: Online | None = None
    is_leaving: bool = False


def encode(node: UUID, number: int, since: int, events: Sequence[Envelope] = (), **fields: Any) -> bytes:
    """A packet of a Message with these fields."""
    message = {"node": node, "number": number, "since": since, "events": list(_headers(events)), **fields}
    return b"\n".join([as_json(message), *(event.body for event in events)])


def _headers(events: Iterable[Envelope]) -> Iterator[dict[str, Any]]:
    before: Audience | None = None
    for event in events:
        audience = None if event.audience == before else list(event.audience.items())
        fields = {name: value for name, value in event._asdict().items() if value and name in FIELDS}
        yield {"kind": event.kind.event, "audience": audience, **fields}
        before = event.audience


def decode(packet: bytes) -> tuple[Message, list[Envelope]]:
    """A message, and its events of known kinds. Raises ValueError or TypeError.

    An event that lacks what its kind needs becomes a resync of its audience.
    """
    head, *bodies = packet.split(b"\n")
    message = Message.model_validate_json(head)
    audience: Audience = {}
    events: list[Envelope] = []
    for header, body in zip(message.events, bodies, strict=True):
        if header.audience is not None:
            audience = {DriverUUID(user_id): seen_from for user_id, seen_from in header.audience}
        if kind := KINDS.get(header.kind):
            events.append(_open(kind, audience, body, header.model_extra or {}))
    return message, events


def _open(kind: type[Event], audience: Audience, body: bytes, header: dict[str, Any]) -> Envelope:
    names = NEEDED.get(kind, set()) | header.keys() & FIELDS
    if kind.reach is Reach.OPEN_CHAT:
        names.add("open_chat_id")
    try:
        fields = {name: header[name] for name in names}
        return _envelope.validate_python({"kind": kind, "audience": audience, "body": body, **fields})
    except (KeyError, ValueError) as error:
        log.warning("bus event not understood", kind=kind.event, error=type(error).__name__)
        return resync(audience, "not_understood")
