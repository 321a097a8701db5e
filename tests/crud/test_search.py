"""A search reads few rows, however many chats and messages its user has and however common its word is."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from chat_app.crud import search
from chat_app.database import Database
from chat_app.driver import RawConnection
from chat_app.models.screens import FoundMessages
from chat_app.models.sessions import Actor
from tests.crud.test_plans import recorded_statements
from tests.service import MakeUser

MOST_ROWS = 20_000
CHATS, LENGTH, LONG = 1_000, 20, 12_000
# A long chat and many short ones, with their messages in turn. "tail" is at the beginning of the history.
FILL = f"""
WITH made AS (
    INSERT INTO chat (id, type, title, creator_id, member_count, message_count, version, created_at, updated_at,
        changed_at)
    SELECT gen_random_uuid(), 'group', 'Group', :me, 1, CASE n WHEN 1 THEN {LONG} ELSE {LENGTH} END, {LONG} + 1,
        now(), now(), now()
    FROM generate_series(1, {CHATS}) AS n RETURNING id, message_count
), joined AS (
    INSERT INTO membership (chat_id, user_id, version, joined_version, visible_from_seq, last_read_seq, mine_version,
        joined_at, changed_at)
    SELECT id, :me, 1, 1, 1, 0, 1, now(), now() FROM made
)
INSERT INTO message (chat_id, seq, version, sender_id, client_id, type, text, like_count, sent_at)
SELECT id, seq, seq, :me, gen_random_uuid(), 'text', concat_ws(' ', 'every', 'word' || seq % 100,
        CASE WHEN seq % 1000 = 7 THEN 'thousandth' END, CASE WHEN seq < 4 AND message_count > {LENGTH} THEN 'tail' END),
    0, now() - (message_count - seq) * interval '1 minute'
FROM made, generate_series(1, message_count) AS seq
"""


@pytest.fixture
async def actor(database: Database, make_user: MakeUser) -> AsyncIterator[Actor]:
    """A user with many messages, which are deleted afterwards."""
    user = await make_user()
    async with database.engine.begin() as connection:
        await connection.execute(text(FILL), {"me": user.id})
    async with database.reading() as raw:
        await raw.connection.execute("ANALYZE chat, membership, message")
    yield Actor(user.id, uuid4())
    async with database.engine.begin() as connection:
        await connection.execute(text("DELETE FROM message WHERE sender_id = :me"), {"me": user.id})
        await connection.execute(text("DELETE FROM chat WHERE creator_id = :me"), {"me": user.id})


def rows_of(plan: dict[str, Any]) -> float:
    """The rows that the scans of tables and indexes have read."""
    read = sum(rows_of(part) for part in plan.get("Plans", ()))
    if "Relation Name" in plan or "Index Name" in plan:
        dropped = sum(plan.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck"))
        read += (plan["Actual Rows"] + dropped) * plan["Actual Loops"]
    return read


async def read_page(database: Database, actor: Actor, query: str, **where: Any) -> tuple[FoundMessages, float]:
    """A page, and how many rows its statements read."""
    arguments = {"chat_id": None, "sender_id": None, "types": None, "cursor": None, "limit": 50} | where
    async with recorded_statements() as statements, database.reading() as raw:
        page = await search.search_messages(raw, actor, query, *arguments.values())
    read = 0.0
    async with database.reading() as raw:
        await raw.connection.execute("SET plan_cache_mode = force_generic_plan")
        for statement, values in statements:
            ((explained,),) = await RawConnection.fetch(raw, f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *values)
            read += rows_of(explained[0]["Plan"])
        await raw.connection.execute("RESET plan_cache_mode")
    return page, read


async def test_a_page_reads_few_rows_whatever_the_word(database: Database, actor: Actor) -> None:
    async with database.reading() as raw:
        ((long,),) = await raw.fetch(
            "SELECT id FROM chat WHERE creator_id = $1 ORDER BY message_count DESC LIMIT 1", actor.id
        )
    found: dict[tuple[str, UUID | None], int] = {}
    for query in ("every", "word1", "word", "every word7", "thousandth", "tail", "nothing"):
        for chat_id in (None, UUID(str(long))):
            page, read = await read_page(database, actor, query, chat_id=chat_id)
            assert read <= MOST_ROWS, (query, chat_id)
            found[query, chat_id and long] = len(page.items)
            if page.next_cursor:
                page, read = await read_page(database, actor, query, chat_id=chat_id, cursor=page.next_cursor)
                assert read <= MOST_ROWS, (query, chat_id)
    # Rare words are found at once, wherever they are. Common ones fill the page of one chat.
    assert {found["tail", None], found["tail", long]} == {3}
    assert (found["thousandth", long], found["thousandth", None], found["nothing", None]) == (12, 50, 0)
    assert found["every", long] == found["word1", long] == 50
    assert min(found["every", None], found["word1", None]) > 0


async def test_the_next_pages_go_through_all_results_once(database: Database, actor: Actor) -> None:
    seen: list[tuple[Any, ...]] = []
    cursor: str | None = None
    while cursor is not None or not seen:
        page, _ = await read_page(database, actor, "thousandth", cursor=cursor, limit=100)
        seen += [(item.sent_at, item.chat_id, item.seq) for item in page.items]
        cursor = page.next_cursor
    assert len(seen) == len(set(seen)) == CHATS - 1 + LONG // 1000
    assert seen == sorted(seen, reverse=True)
