"""Each query uses an index, and the number of statements does not grow with the data."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

from chat_app import driver
from chat_app.crud import chats, groups, history, members, reactions, search
from chat_app.crud.messages import Draft, send_messages
from chat_app.crud.presence import list_peers, read_watchers
from chat_app.crud.sessions import check_session, list_ended, open_session
from chat_app.database import Database, Db
from chat_app.driver import BY_KEY, RawConnection
from chat_app.events import recorded
from chat_app.models.answers import Created
from chat_app.models.messages import AttachmentCreate, MessageType, TextCreate
from chat_app.models.sessions import Actor
from tests.factories import AttachmentFactory, ChatFactory
from tests.service import MakeUser

Statements = list[tuple[str, tuple[object, ...]]]
Use = Callable[[Db, Actor, UUID], Awaitable[object]]


def found(query: str | None, types: list[MessageType] | None = None) -> Use:
    """A search for words in all chats, or for types in one."""
    return lambda unit, actor, chat_id: search.search_messages(
        unit, actor, query, chat_id if types else None, None, types, None, 50
    )


USES: dict[str, Use] = {
    "rare word": found("0"),
    "gallery": found(None, [MessageType.TEXT]),
    "newest page": lambda unit, actor, chat_id: history.list_messages(unit, actor, chat_id),
    "page before": lambda unit, actor, chat_id: history.list_messages(unit, actor, chat_id, before=4),
    "page after": lambda unit, actor, chat_id: history.list_messages(unit, actor, chat_id, after=1),
    "page around": lambda unit, actor, chat_id: history.list_messages(unit, actor, chat_id, around=3),
    "page around a time": lambda unit, actor, chat_id: history.list_messages(
        unit, actor, chat_id, around_time=datetime(2026, 1, 1, tzinfo=UTC)
    ),
    "one message": lambda unit, actor, chat_id: history.get_message(unit, actor, chat_id, 1),
    "changes": lambda unit, actor, chat_id: history.list_changes(unit, actor, chat_id, since=1),
    "group": lambda unit, actor, chat_id: groups.get_group(unit, actor, chat_id),
    "pinned messages": lambda unit, actor, chat_id: history.list_pinned_messages(unit, actor, chat_id),
    "reactions": lambda unit, actor, chat_id: reactions.list_reactions(
        unit, actor, chat_id, 1, emoji=None, cursor="1", limit=50
    ),
    "members": lambda unit, actor, chat_id: members.list_members(unit, actor, chat_id),
    "one chat": lambda unit, actor, chat_id: chats.get_chat(unit, actor, chat_id),
    "chat list": lambda unit, actor, _: chats.list_chats(unit, actor, cursor=None, limit=50, changed_since=None),
    "chats by ids": lambda unit, actor, chat_id: chats.list_chats(
        unit, actor, cursor=None, limit=50, changed_since=None, ids=[chat_id, uuid4()]
    ),
    "changed chats": lambda unit, actor, _: chats.list_chats(unit, actor, cursor=None, limit=50, changed_since="1.0"),
    "session": lambda unit, actor, _: check_session(unit, actor),
    "watchers": lambda unit, actor, _: read_watchers(unit, actor.id),
    "watched": lambda unit, actor, chat_id: list_peers(unit, actor.id, chat_id),
    "ended sessions": lambda unit, actor, _: list_ended(unit, [actor.session_id]),
}


def text(words: str, *, reply_to: int | None = None) -> TextCreate:
    return TextCreate(client_id=uuid4(), type="text", text=words, reply_to=reply_to)


async def make_actor(database: Database, make_user: MakeUser, *, much: bool) -> tuple[Actor, UUID]:
    """An actor with one chat and one message, or with many of both."""
    people = [await make_user() for _ in range(12 if much else 2)]
    async with database.transaction() as db:
        actor = (await open_session(db, people[0].id, "tests")).actor
        for other in people[2:]:
            await ChatFactory.make(db, creator=actor, members=[other], title=None)
        chat = await ChatFactory.make(db, creator=actor, members=people[1:])
        senders = [Actor(person.id, uuid4()) for person in people]
        texts = [text(f"{number}", reply_to=1) for number in range(40 if much else 1)]
        drafts = [Draft(senders[number % len(senders)], chat.id, data) for number, data in enumerate(texts)]
        await send_messages(db, drafts)
    return actor, chat.id


@asynccontextmanager
async def recorded_statements() -> AsyncIterator[Statements]:
    """The statements of this task, without those of the service, which sweeps its sessions at the same time."""
    statements: Statements = []
    fetch, lock, task = RawConnection.fetch, RawConnection.lock, asyncio.current_task()

    def note(statement: str, *values: object) -> None:
        if asyncio.current_task() is task:
            statements.append((statement, values))

    async def note_fetch(batch: RawConnection, statement: str, *values: object) -> list[Any]:
        note(statement, *values)
        return await fetch(batch, statement, *values)

    async def note_lock(batch: RawConnection, statement: str, ids: Any, *, patience: float) -> None:
        note(statement, list(ids))
        await lock(batch, statement, ids, patience=patience)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RawConnection, "fetch", note_fetch)
        patch.setattr(RawConnection, "lock", note_lock)
        yield statements


async def plan_of(batch: RawConnection, statement: str, values: tuple[object, ...]) -> str:
    # The generic plan, which PostgreSQL uses after several executions.
    await batch.connection.execute("SET plan_cache_mode = force_generic_plan")
    lines = await batch.connection.fetch(f"EXPLAIN {statement}", *values)
    await batch.connection.execute("RESET plan_cache_mode")
    return "\n".join(line[0] for line in lines)


@asynccontextmanager
async def empty_tables(database: Database) -> AsyncIterator[RawConnection]:
    """A connection that sees empty tables, with the statistics of empty tables."""
    batch = RawConnection(
        await asyncpg.connect(database.url.replace("+asyncpg", "", 1), server_settings=dict(BY_KEY)), {}
    )
    try:
        for table in ("chat", "membership", "message"):
            await batch.connection.execute(f"CREATE TEMPORARY TABLE {table} (LIKE public.{table} INCLUDING ALL)")
            await batch.connection.execute(f"ANALYZE {table}")
        yield batch
    finally:
        batch.connection.terminate()


def reads_all(plan: str) -> bool:
    """Whether it scans a whole table or a whole index. A scan of a whole index has no condition."""
    scans = re.findall(r"(?:Bitmap )?Index (?:Only )?Scan.*\n\s*(.*)", plan)
    return "Seq Scan" in plan or not all(line.startswith("Index Cond") for line in scans)


class TestReading:
    @pytest.mark.parametrize("use", USES)
    async def test_reading_uses_an_index_everywhere(self, use: str, database: Database, make_user: MakeUser) -> None:
        actor, chat_id = await make_actor(database, make_user, much=True)
        async with recorded_statements() as statements, database.reading() as batch:
            await USES[use](batch, actor, chat_id)
        assert statements
        async with database.reading() as batch:
            plans = [await plan_of(batch, *one) for one in statements]
        assert not [plan for plan in plans if reads_all(plan)]

    @pytest.mark.parametrize("use", USES)
    async def test_reading_takes_the_same_number_of_statements_for_any_amount(
        self, use: str, database: Database, make_user: MakeUser
    ) -> None:
        numbers = []
        for much in (False, True):
            actor, chat_id = await make_actor(database, make_user, much=much)
            async with recorded_statements() as statements, database.reading() as batch:
                await USES[use](batch, actor, chat_id)
            numbers.append(len(statements))
        assert numbers[0] == numbers[1] <= 5


class TestSending:
    async def test_sending_takes_three_statements_for_any_number_of_messages(
        self, database: Database, make_user: MakeUser
    ) -> None:
        actor, chat_id = await make_actor(database, make_user, much=True)
        for number in (1, 50):
            async with recorded_statements() as statements, database.raw_transaction() as batch:
                await send_messages(batch, [Draft(actor, chat_id, text(f"{n}")) for n in range(number)])
            assert len(statements) == 3
        async with database.reading() as batch:
            # Autovacuum does this once the tables have rows.
            await batch.connection.execute("ANALYZE chat, membership, message")
            plans = [await plan_of(batch, *one) for one in statements]
        assert not [plan for plan in plans if reads_all(plan)]

    async def test_quotes_take_no_statement(self, database: Database, make_user: MakeUser) -> None:
        actor, chat_id = await make_actor(database, make_user, much=True)
        async with database.transaction() as db:
            file = await AttachmentFactory.make(db, owner=actor)
            data = AttachmentCreate(client_id=uuid4(), type="file", attachment_id=file.id)
            (carrier,) = await send_messages(db, [Draft(actor, chat_id, data)])
        assert isinstance(carrier, Created)
        quoted = [1, 2, orjson.loads(carrier.data)["seq"]]
        async with recorded_statements() as statements, database.raw_transaction() as batch:
            await send_messages(batch, [Draft(actor, chat_id, text("?", reply_to=seq)) for seq in quoted])
            (changed,) = [event.event.model_dump() for event in recorded(batch) if event.open_chat_id]
        assert [message["seq"] for message in changed["replied"]] == quoted and len(statements) == 3
        async with database.reading() as batch:
            await batch.connection.execute("ANALYZE chat, membership, message")
            plans = [await plan_of(batch, *one) for one in statements]
        assert not [plan for plan in plans if reads_all(plan)]

    async def test_sending_finds_messages_by_chat_also_with_a_plan_for_empty_tables(
        self, database: Database, make_user: MakeUser
    ) -> None:
        actor, chat_id = await make_actor(database, make_user, much=False)
        async with recorded_statements() as statements, database.raw_transaction() as batch:
            await send_messages(batch, [Draft(actor, chat_id, text("Hello"))])
        async with empty_tables(database) as batch:
            plans = [await plan_of(batch, *one) for one in statements if "\nWITH draft AS" in one[0]]
        (plan,) = plans
        # Any index will do: it may read the whole chat, but not all chats.
        assert re.search(r"Scan using \S+ on message .*\n\s*Index Cond: \(\(?chat_id = ", plan), plan


class TestPlans:
    async def test_plans_are_made_anew_as_the_tables_grow(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver, "PLAN_SECONDS", 0.0)
        async with empty_tables(database) as batch:
            await batch.connection.execute("SET plan_cache_mode = force_generic_plan")
            await batch.connection.execute("PREPARE probe (bigint) AS SELECT FROM message WHERE seq > $1")
            before = await batch.connection.fetch("EXPLAIN EXECUTE probe(1)")
            await batch.connection.execute(
                """
                INSERT INTO message (chat_id, seq, version, type, sender_id, like_count, sent_at)
                SELECT gen_random_uuid(), n, n, 'text', gen_random_uuid(), 0, now() FROM generate_series(1, 5000) AS n
                """
            )
            assert await batch.connection.fetch("EXPLAIN EXECUTE probe(1)") == before
            await batch.plan_anew()
            assert await batch.connection.fetch("EXPLAIN EXECUTE probe(1)") != before
