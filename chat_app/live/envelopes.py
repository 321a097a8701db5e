"""Events ready for delivery: encoded once, with the header that decides their recipients and their order."""

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

import orjson
from pydantic import SkipValidation

from chat_app.events import Audience, Event, Recorded, ResyncRequired
from chat_app.logs import log_crash
from chat_app.models.wire_json import as_json


class Envelope(NamedTuple):
    """An event of this node or of another one. What is 0 or None does not apply to its kind."""

    kind: SkipValidation[type[Event]]
    audience: SkipValidation[Audience]
    body: SkipValidation[bytes]
    # Deliver it only to connections that have this chat open.
    open_chat_id: UUID | None = None
    # The chat by which it is ordered.
    chat_id: UUID | None = None
    since: int = 0
    version: int = 0
    first_seq: int = 0
    mine_version: int = 0
    removed_version: int = 0
    # Of the sender of the last message, or of the owner of a session.
    user_id: UUID | None = None

    def seen_from(self, seq: int) -> "Envelope":
        """The same change without the messages before this one."""
        change = orjson.loads(self.body)
        visible = [message for message in change["messages"] if message["seq"] >= seq]
        return self._replace(body=orjson.dumps(change | {"messages": visible}))

    def without(self, part: str) -> "Envelope":
        """The same event with an empty list in this place."""
        return self._replace(body=orjson.dumps(orjson.loads(self.body) | {part: []}))


def seal(events: Iterable[Recorded]) -> list[Envelope]:
    """The events of a commit; one that can't be encoded becomes a resync of its audience."""
    return [_seal(*recorded) for recorded in events]


def _seal(event: Event, audience: Audience, open_chat_id: UUID | None) -> Envelope:
    try:
        return Envelope(type(event), audience, as_json(event), open_chat_id, **event.header())
    except Exception as error:
        # The change is committed, so its sender gets no error.
        log_crash(error)
        return resync(audience)


def resync(audience: Iterable[UUID], reason: str = "undelivered") -> Envelope:
    """What its audience gets in place of events that may have happened."""
    return Envelope(ResyncRequired, dict.fromkeys(audience, 0), as_json(ResyncRequired(reason=reason)))
