"""Finding messages by their words and types, in all chats of an actor or in one.

Rare words are found by an index. It has the messages of a word in no order, so for a common word the newest messages
of the chats are read instead, and those with the word are kept.
"""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from chat_app.crud.access import IS_VISIBLE, VISIBLE_CHATS
from chat_app.crud.briefs import list_briefs
from chat_app.crud.entries import NEVER, read_some
from chat_app.crud.history import people_in, read_places
from chat_app.crud.statements import read_sql
from chat_app.database import Db
from chat_app.errors import InvalidInput
from chat_app.logs import log_authorized
from chat_app.models.base import BIGGEST
from chat_app.models.chats import ChatRead
from chat_app.models.messages import IS_SEARCHABLE, SEARCH_KEYS, SEPARATOR, MessageType, search_tag
from chat_app.models.screens import ChatBrief, FoundMessages
from chat_app.models.sessions import Actor
from chat_app.models.wire_json import construct

# A word is common if it has so many messages. Then at most so many are read for a page.
COMMON, MOST_READ = 2_000, 8_000


class Place(NamedTuple):
    """A message, in the order of a search."""

    sent_at: datetime
    chat_id: UUID
    seq: int


# The first page is before it. The driver reads the greatest time of all without its zone.
END = Place(datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1), BIGGEST)


async def search_messages(
    db: Db,
    actor: Actor,
    query: str | None,
    chat_id: UUID | None,
    sender_id: UUID | None,
    types: Sequence[MessageType] | None,
    cursor: str | None,
    limit: int,
) -> FoundMessages:
    """A page of the messages with all words of the query and one of the types. Raises InvalidInput."""
    if (query is None and types is None) or (types is not None and chat_id is None):
        raise InvalidInput.at("/chat_id" if types else "/query", "missing", "Give `query`, or `types` with `chat_id`.")
    (row,) = await db.fetch(_WORDS, query or "")
    before = _parse_cursor(cursor) if cursor else END
    places: list[Place] = []
    following = None
    if row["words"] or query is None:
        values = actor.id, chat_id, _keys(row["words"], types or ()), *before, sender_id, limit + 1
        places, following = await _find(db, before.sent_at, row["words"], *values)
    if len(places) > limit:
        following = places[limit - 1]
    # The permission is checked again, right before the messages are read.
    chats = {chat.id: _brief(chat) for chat in await read_some(db, actor.id, {place.chat_id for place in places})}
    items = await read_places(db, actor.id, [place[1:] for place in places[:limit] if place.chat_id in chats])
    log_authorized()
    return FoundMessages(
        items=items,
        chats=[chats[found] for found in sorted({item.chat_id for item in items})],
        users=await list_briefs(db, people_in(items)),
        next_cursor=_cursor(following) if following else None,
    )


def _brief(chat: ChatRead) -> ChatBrief:
    own = {"peer": chat.mine.peer, "mine_title": chat.mine.title}
    return construct(ChatBrief, {"id": chat.id, "type": chat.type, "title": chat.title, **own})


def _keys(words: Sequence[str], types: Sequence[MessageType]) -> str:
    """The condition for SEARCH_KEYS, with `#` for the tag."""
    alternatives = " | ".join(f"'#={kind}'" for kind in types)
    last = [f"'#{word}':*" for word in words[-1:]]
    return " & ".join([*(f"'#{word}'" for word in words[:-1]), *last, *([f"({alternatives})"] if types else ())])


async def _find(db: Db, before: datetime, words: Sequence[str], *values: object) -> tuple[list[Place], Place | None]:
    """The next places; where the page after them begins, if not all messages up to there were read."""
    (found,) = await db.fetch(_RARE, *values, COMMON)
    most = MOST_READ
    while not found["is_whole"] and found["until"] in (None, before):
        (found,) = await db.fetch(_COMMON, *values, most, [f"%{word}%" for word in words])
        most *= 8  # only if the first slice has more messages
    return [Place(*place) for place in found["places"]], found["until"] and END._replace(sent_at=found["until"])


# As SEARCH_KEYS has them.
_WORDS = f"SELECT string_to_array(btrim(regexp_replace(lower($1), '{SEPARATOR}', ' ', 'g')), ' ') AS words"
_RULES = {"chats": VISIBLE_CHATS, "is_visible": IS_VISIBLE, "is_searchable": IS_SEARCHABLE}
_RARE = read_sql("search_rare.sql", keys=SEARCH_KEYS, tag=search_tag("mine.chat_id", "block"), **_RULES)
_COMMON = read_sql("search_common.sql", keys=SEARCH_KEYS, tag=search_tag("chat_id", "seq / 1024"), **_RULES)


def _cursor(place: Place) -> str:
    position = (place.sent_at - NEVER) // timedelta(microseconds=1), place.chat_id, place.seq
    return base64.urlsafe_b64encode("|".join(map(str, position)).encode()).decode()


def _parse_cursor(text: str) -> Place:
    """Raises InvalidInput."""
    try:
        sent_at, chat_id, seq = base64.urlsafe_b64decode(text).decode().split("|")
        if not 0 <= int(seq) <= BIGGEST:
            raise ValueError(seq)
        return Place(NEVER + timedelta(microseconds=int(sent_at)), UUID(chat_id), int(seq))
    except (ValueError, OverflowError) as error:
        raise InvalidInput.at("/cursor", "invalid_cursor", "This is not a next_cursor of this list.") from error
