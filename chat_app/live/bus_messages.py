"""What nodes say to each other, as JSON; whatever comes is checked."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, get_args
from uuid import UUID

from pydantic import BaseModel

from chat_app.events import Audience, Event, Recorded
from chat_app.models.base import as_json

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
    audience: list[tuple[UUID, int]] | None


class Message(BaseModel):
    node: UUID
    # Of these events, and of those before; equal where there are none.
    number: int
    since: int
    events: list[_Told] = []
    online: Online | None = None
    is_leaving: bool = False

    def recorded(self) -> list[Recorded]:
        """Raises ValidationError or KeyError, such as for what a newer version of the service tells."""
        audience: Audience = {}
        events: list[Recorded] = []
        for told in self.events:
            audience = audience if told.audience is None else dict(told.audience)
            events.append(Recorded(EVENTS[told.event].model_validate(told.data), audience))
        return events


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
