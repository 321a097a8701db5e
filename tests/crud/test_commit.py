"""Rules 1, 2, 8 and 11: one commit, what it releases and when, and that tables stay inside."""

import ast
import asyncio
import io
import tokenize
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints
from uuid import UUID, uuid4

import asyncpg
import pytest
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from sqlalchemy import event as database_events
from sqlalchemy.util import await_only
from sqlmodel import SQLModel, col, select

import chat_app
from chat_app.crud import chats, messages
from chat_app.crud.messages import Draft, one
from chat_app.crud.sessions import open_session, refresh_session
from chat_app.database import Database, Transaction
from chat_app.delivery import order_delivery
from chat_app.errors import ChatNotFound, ClientIdReused, MessageNotFound, RefreshReused, Unavailable
from chat_app.events import CLIENT_EVENTS, ChatsChanged, MessagesChanged, NodeEvent, Recorded, SessionsRevoked, record
from chat_app.live.commands import COMMANDS
from chat_app.main import create_api
from chat_app.models import Chat, Message, Session, User
from chat_app.models.answers import Created
from chat_app.models.base import new_id
from chat_app.models.messages import TextCreate
from chat_app.models.sessions import Actor
from chat_app.settings import Settings, get_settings
from tests.cast import sent_message
from tests.clients import DEADLINE
from tests.factories import ChatFactory
from tests.faults import END_BACKEND, no_commits
from tests.service import Make, MakeUser

PACKAGE = Path(chat_app.__file__).parent


class Delivering(Database):
    """A database that records the events it delivers, by the ids of the sessions that they name."""

    def __init__(self, url: str) -> None:
        # A test may hold a lock for any time.
        super().__init__(url, delivery=self, patience=60)
        self.names: list[Any] = []
        self.events: list[Recorded] = []
        self.unknown: list[Any] = []
        self.act: Callable[[], object] = lambda: None

    def deliver(self, events: list[Recorded]) -> int:
        self.events += events
        self.names += map(name_of, events)
        self.act()
        return 0

    def resync(self, events: list[Recorded]) -> None:
        self.unknown += map(name_of, events)


def name_of(recorded: Recorded) -> Any:
    event = recorded.event
    return event.session_ids[0] if isinstance(event, SessionsRevoked) else type(event).__name__


def note(db: Transaction, name: UUID) -> None:
    """Record an event that this name identifies."""
    record(db, SessionsRevoked(session_ids=[name]), {})


@pytest.fixture
async def delivering(service_settings: Settings) -> AsyncIterator[Delivering]:
    database = Delivering(service_settings.asyncpg_url)
    yield database
    await database.close()


@pytest.fixture
async def actor(make_user: MakeUser) -> Actor:
    return Actor((await make_user(name="Anna")).id, new_id())


def text(words: str, *, client_id: UUID | None = None, reply_to: int | None = None) -> TextCreate:
    return TextCreate(type="text", text=words, client_id=client_id or uuid4(), reply_to=reply_to)


class TestEventsFollowTheCommit:
    async def test_events_are_kept_until_the_commit_and_leave_in_order(self, delivering: Delivering) -> None:
        names = [uuid4() for _ in range(3)]
        happened: list[str] = []
        async with delivering.transaction() as db:
            database_events.listen(db.sync_session, "after_commit", lambda _: happened.append(str(delivering.names)))
            for name in names:
                note(db, name)
            await db.exec(select(1))
            assert delivering.names == []
        assert happened == ["[]"]
        assert delivering.names == names

    async def test_a_delivered_change_is_already_committed(
        self, delivering: Delivering, actor: Actor, make_user: MakeUser
    ) -> None:
        peer = await make_user()
        seen: list[asyncio.Task[bool]] = []

        async def is_written(chat_id: UUID) -> bool:
            async with delivering.transaction() as db:
                return (await db.exec(select(Chat).where(Chat.id == chat_id))).first() is not None

        async with delivering.transaction() as db:
            chat, _ = await chats.open_private_chat(db, actor, peer.id)
            delivering.act = lambda: seen.append(asyncio.ensure_future(is_written(chat.id)))
            assert not await is_written(chat.id)
        assert [await one for one in seen] == [True]

    @pytest.mark.parametrize("error", [ChatNotFound, RuntimeError, asyncio.CancelledError, KeyboardInterrupt])
    async def test_a_rollback_drops_the_events(
        self, delivering: Delivering, actor: Actor, make_user: MakeUser, error: type[BaseException]
    ) -> None:
        peer = await make_user()
        chat_id = new_id()

        async def fail() -> None:
            async with delivering.transaction() as db:
                await chats.open_private_chat(db, actor, peer.id, chat_id=chat_id)
                raise error

        with pytest.raises(error):
            await fail()
        assert delivering.names == []
        async with delivering.transaction() as db:
            assert await db.get(Chat, chat_id) is None

    async def test_a_failed_commit_drops_the_events(self, delivering: Delivering, database: Database) -> None:
        async def change(name: UUID) -> None:
            async with delivering.transaction() as db:
                await db.exec(select(1))
                note(db, name)

        names = [uuid4(), uuid4()]
        await change(names[0])
        with no_commits(delivering, database), pytest.raises(Unavailable):
            await change(names[1])
        assert delivering.names == names[:1]
        # The outcome is unknown, so the audience has to resync.
        assert delivering.unknown == names[1:]

    async def test_a_refusal_that_is_itself_a_change_keeps_its_event(
        self, delivering: Delivering, actor: Actor
    ) -> None:
        assert RefreshReused.commits and not ChatNotFound.commits
        async with delivering.transaction() as db:
            opened = await open_session(db, actor.id, None)
        tokens = [opened.refresh_token]
        for _ in range(2):
            async with delivering.transaction() as db:
                tokens.append((await refresh_session(db, tokens[-1])).refresh_token)
        with pytest.raises(RefreshReused):
            async with delivering.transaction() as db:
                await refresh_session(db, tokens[0])
        assert delivering.names == [opened.actor.session_id]
        async with delivering.transaction() as db:
            assert (await db.get_one(Session, opened.actor.session_id)).revoked_at


Start = Callable[..., Awaitable[list[asyncio.Task[None]]]]


@pytest.fixture
async def start(delivering: Delivering) -> AsyncIterator[Start]:
    """`await start(one(), other())`: start them in this order and let each run until it blocks."""
    started: list[asyncio.Task[None]] = []

    async def begin(*changes: Coroutine[None, None, None]) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(change) for change in changes]
        started.extend(tasks)
        await asyncio.wait(tasks, timeout=0.2)
        return tasks

    yield begin
    for task in started:
        task.cancel()
    await asyncio.gather(*started, return_exceptions=True)


class TestDeliveryOrder:
    """Two changes lock one chat one after the other; the answers to their commits are read in another order."""

    async def change(
        self,
        database: Database,
        name: UUID,
        *,
        chat: str = "chat",
        committed: asyncio.Event | None = None,
        answered: asyncio.Event | None = None,
    ) -> None:
        """Set `committed` when the database has the change; the program reads the answer once `answered` is set."""

        def delay(_session: object) -> None:
            if committed:
                committed.set()
            if answered:
                await_only(answered.wait())

        async with database.transaction() as db:
            order_delivery(db, chat)
            await db.exec(select(1))
            note(db, name)
            database_events.listen(db.sync_session, "after_commit", delay)

    async def test_a_change_with_a_late_answer_is_still_delivered_first(
        self, delivering: Delivering, start: Start
    ) -> None:
        names, answered = [uuid4() for _ in range(4)], asyncio.Event()
        late = self.change(delivering, names[0], answered=answered)
        tasks = await start(late, *(self.change(delivering, name) for name in names[1:]))
        assert delivering.names == [] and not any(task.done() for task in tasks)
        answered.set()
        await asyncio.gather(*tasks)
        assert delivering.names == names

    async def test_other_chats_do_not_wait(self, delivering: Delivering, start: Start) -> None:
        names, answered = [uuid4() for _ in range(2)], asyncio.Event()
        late = self.change(delivering, names[0], answered=answered)
        tasks = await start(late, self.change(delivering, names[1], chat="other"))
        await tasks[1]
        assert delivering.names == names[1:]
        answered.set()
        await tasks[0]

    async def test_a_change_of_several_chats_waits_for_all_of_them(self, delivering: Delivering, start: Start) -> None:
        names, answered = [uuid4() for _ in range(3)], [asyncio.Event(), asyncio.Event()]

        async def change_both() -> None:
            async with delivering.transaction() as db:
                for chat in ("one", "two", "one"):
                    order_delivery(db, chat)
                note(db, names[2])

        changes = [self.change(delivering, names[n], chat=("one", "two")[n], answered=answered[n]) for n in range(2)]
        first, second, both = await start(*changes, change_both())
        answered[0].set()
        await first
        assert delivering.names == names[:1]
        answered[1].set()
        await asyncio.gather(second, both)
        assert delivering.names == names

    @pytest.mark.parametrize("way", ["fails", "is cancelled"])
    async def test_a_failed_change_does_not_block_later_ones(
        self, delivering: Delivering, start: Start, way: str
    ) -> None:
        name, waiting = uuid4(), asyncio.Event()

        async def fail() -> None:
            async with delivering.transaction() as db:
                order_delivery(db, "chat")
                note(db, uuid4())
                await waiting.wait()
                raise MessageNotFound

        failing, later = await start(fail(), self.change(delivering, name))
        assert delivering.names == []
        if way == "fails":
            waiting.set()
        else:
            failing.cancel()
        await later
        assert delivering.names == [name]
        await asyncio.wait([failing])
        assert failing.cancelled() or isinstance(failing.exception(), MessageNotFound)

    @pytest.mark.parametrize("way", ["fails", "is cancelled"])
    async def test_a_failed_change_lets_no_later_one_overtake_earlier_ones(
        self, delivering: Delivering, start: Start, way: str
    ) -> None:
        names, committed, answered = [uuid4() for _ in range(3)], asyncio.Event(), asyncio.Event()

        async def fail() -> None:
            async with delivering.transaction() as db:
                order_delivery(db, "chat")
                committed.set()
                raise MessageNotFound

        between = fail() if way == "fails" else self.change(delivering, names[1], committed=committed)
        first, failing = await start(self.change(delivering, names[0], answered=answered), between)
        await committed.wait()
        failing.cancel()
        await asyncio.wait([failing])
        (later,) = await start(self.change(delivering, names[2]))
        assert delivering.names == []
        answered.set()
        await asyncio.gather(first, later)
        assert delivering.names == [names[0], names[2]]
        # A change that was committed and not delivered has an unknown outcome.
        assert delivering.unknown == (names[1:2] if way == "is cancelled" else [])

    async def test_nothing_is_kept_of_finished_deliveries(self, delivering: Delivering) -> None:
        await asyncio.gather(*(self.change(delivering, uuid4()) for _ in range(5)))
        assert delivering._last == {}


class TestRawConnections:
    async def test_raw_connections_that_the_database_ended_are_replaced(
        self, delivering: Delivering, database: Database
    ) -> None:
        async with delivering.reading() as one, delivering.reading() as other:
            pids = [batch.connection.get_server_pid() for batch in (one, other)]
        async with database.engine.connect() as connection:
            for pid in pids:
                assert (await connection.execute(END_BACKEND, {"pid": pid})).scalar()
        async with asyncio.timeout(DEADLINE):
            while not all(batch.connection.is_closed() for batch in (one, other)):  # noqa: ASYNC110  # no event to wait for
                await asyncio.sleep(0.01)
        async with delivering.reading() as batch:
            assert [row[0] for row in await batch.fetch("SELECT 1")] == [1]
        async with delivering.raw_transaction() as batch:
            assert [row[0] for row in await batch.fetch("SELECT 2")] == [2]

    async def test_pooled_connections_that_the_database_ended_are_replaced(
        self, delivering: Delivering, database: Database
    ) -> None:
        async with delivering.engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
        async with database.engine.connect() as connection:
            assert (await connection.execute(END_BACKEND, {"pid": driver.get_server_pid()})).scalar()
        async with asyncio.timeout(DEADLINE):
            while not driver.is_closed():  # noqa: ASYNC110  # no event to wait for
                await asyncio.sleep(0.01)
        async with delivering.transaction() as db:
            assert (await db.exec(select(1))).one() == 1

    @pytest.mark.parametrize("kind", ["reading", "transaction"])
    async def test_a_connection_that_ends_between_two_steps_of_a_statement_is_unavailable(
        self, delivering: Delivering, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        get_statement, task = asyncpg.Connection._get_statement, asyncio.current_task()

        async def get_and_end(connection: Any, *arguments: Any, **options: Any) -> Any:
            statement = await get_statement(connection, *arguments, **options)
            if asyncio.current_task() is task:
                connection.terminate()
            return statement

        monkeypatch.setattr(asyncpg.Connection, "_get_statement", get_and_end)
        with pytest.raises(Unavailable):
            async with delivering.reading() if kind == "reading" else delivering.transaction() as opened:
                await (opened.fetch("SELECT 1") if kind == "reading" else opened.exec(select(1)))

    async def test_an_error_of_ours_is_not_taken_for_one_of_the_database(self, delivering: Delivering) -> None:
        async def fail() -> None:
            async with delivering.reading() as opened:
                opened.nothing  # type: ignore[attr-defined]  # noqa: B018

        with pytest.raises(AttributeError):
            await fail()

    async def test_a_connection_that_fails_in_a_transaction_is_not_used_again(self, delivering: Delivering) -> None:
        async def fail() -> None:
            async with delivering.raw_transaction() as batch:
                await batch.lock("SELECT FROM chat WHERE id = ANY($1::uuid[]) FOR UPDATE", [uuid4()], patience=1)
                await batch.fetch("SELECT 1 / 0")

        with pytest.raises(asyncpg.PostgresError):
            await fail()
        async with delivering.reading() as batch:
            assert not batch.connection.is_in_transaction()
            await batch.fetch("SELECT 1")


class TestBatches:
    """Rule 7: sending is a batch, and one bad draft fails alone."""

    async def test_each_draft_has_its_own_result_and_the_good_ones_are_sent(
        self, delivering: Delivering, actor: Actor, make: Make, make_user: MakeUser
    ) -> None:
        peer, outsider = [Actor((await make_user()).id, new_id()) for _ in range(2)]
        chat = await make(ChatFactory, creator=actor, members=[peer], title=None)
        first = text("one")
        drafts = [
            Draft(actor, chat.id, first),
            Draft(outsider, chat.id, text("not a member")),
            Draft(peer, chat.id, text("two", reply_to=1)),
            Draft(actor, uuid4(), text("no chat")),
            Draft(actor, chat.id, first),
            Draft(actor, chat.id, text("other", client_id=first.client_id)),
            Draft(actor, chat.id, text("quotes nothing", reply_to=99)),
            Draft(actor, chat.id, text("three")),
        ]
        delivering.events.clear()
        async with delivering.transaction() as db:
            results = await messages.send_messages(db, drafts)
        outcomes = [sent_message(result).seq if isinstance(result, Created) else type(result) for result in results]
        assert outcomes == [1, ChatNotFound, 2, ChatNotFound, 1, ClientIdReused, MessageNotFound, 3]
        assert [result.is_new for result in results if isinstance(result, Created)] == [True, True, False, True]
        async with delivering.transaction() as db:
            written = select(Message).where(Message.chat_id == chat.id).order_by(col(Message.seq))
            rows = list(await db.exec(written))
        assert [(row.seq, row.text, row.version) for row in rows] == [(1, "one", 2), (2, "two", 3), (3, "three", 4)]
        of_messages, of_peer, of_rest = delivering.events
        assert isinstance(of_messages.event, MessagesChanged)
        assert (of_messages.event.since, of_messages.event.version) == (1, 4)
        assert [message.seq for message in of_messages.event.messages] == [1, 2, 3]
        # Both have read further. The newest message shows that of its sender; the other member needs an event.
        for delivered, user_id, mine in ((of_peer, peer.id, [2]), (of_rest, actor.id, [])):
            assert isinstance(delivered.event, ChatsChanged) and delivered.audience == {user_id: 1}
            assert [one_.last_read_seq for one_ in delivered.event.mine] == mine
            assert [shared.message_count for shared in delivered.event.chats] == [3]

    async def test_a_batch_over_many_chats_sends_to_each(
        self, delivering: Delivering, actor: Actor, make: Make
    ) -> None:
        opened = [await make(ChatFactory, creator=actor, title=None) for _ in range(4)]
        async with delivering.transaction() as db:
            drafts = [Draft(actor, chat.id, text(f"{n}")) for n in range(3) for chat in opened]
            results = await messages.send_messages(db, drafts)
        assert [sent_message(one([result])).seq for result in results] == [1] * 4 + [2] * 4 + [3] * 4

    async def test_batches_that_lock_the_same_chats_do_not_deadlock(
        self, delivering: Delivering, make: Make, make_user: MakeUser
    ) -> None:
        anna, boris = [Actor((await make_user()).id, new_id()) for _ in range(2)]
        groups = [(await make(ChatFactory, creator=anna, members=[boris])).id for _ in range(3)]

        async def send(actor: Actor, chat_ids: list[UUID]) -> None:
            drafts = [Draft(actor, chat_id, text("x")) for chat_id in chat_ids]
            async with delivering.transaction() as db:
                results = await messages.send_messages(db, drafts)
            assert all(isinstance(result, Created) for result in results)

        await asyncio.gather(*(send(*sender) for _ in range(5) for sender in ((anna, groups), (boris, groups[::-1]))))
        async with delivering.transaction() as db:
            counts = await db.exec(select(Chat.message_count).where(col(Chat.id).in_(groups)))
            assert list(counts) == [11, 11, 11]


@cache
def sources() -> dict[str, str]:
    """Every module of the program with its text."""
    return {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def called() -> list[tuple[str, str]]:
    """The module and the name of each call."""
    calls = [
        (module, node.func)
        for module, source in sources().items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
    ]
    return [(module, getattr(function, "attr", None) or getattr(function, "id", "")) for module, function in calls]


def callers(name: str) -> list[str]:
    """The modules that call a function of this name, once for each call."""
    return [module for module, found in called() if found == name]


class TestTheCode:
    def test_the_code_commits_in_one_place(self) -> None:
        found = []
        for module, source in sources().items():
            words = [token.string for token in tokenize.generate_tokens(io.StringIO(source).readline)]
            found += [module for n in range(len(words)) if words[n : n + 3] == [".", "commit", "("]]
        assert found == callers("commit") == ["database.py"]

    def test_the_code_hands_events_to_one_listener(self) -> None:
        assert [module for module, source in sources().items() if ".delivery.deliver(" in source] == ["database.py"]
        assert [module for module, source in sources().items() if "delivery=" in source] == ["main.py"]
        assert callers("emit") == []

    def test_only_use_cases_record_events(self) -> None:
        assert callers("record") and {module.partition("/")[0] for module in callers("record")} == {"crud"}


def tables_in(annotation: Any, seen: set[Any] | None = None) -> set[str]:
    """The names of the table classes that an annotation contains at any depth."""
    seen = set() if seen is None else seen
    # A union with a name is that of its `__value__`.
    parts = list(get_args(getattr(annotation, "__value__", annotation)))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        if annotation.model_config.get("table"):
            return {annotation.__name__}
        parts += [field.annotation for field in annotation.model_fields.values()]
    return set().union(*(tables_in(part, seen) for part in parts))


class Planted(SQLModel):
    """The tests below must find this class."""

    items: dict[str, list[User] | None]


class TestTables:
    def test_tables_are_found_at_any_depth(self) -> None:
        assert tables_in(list[Planted] | None) == {"User"}
        assert tables_in(typing.Annotated[User, "no matter"]) == {"User"}

    def test_no_route_has_a_table(self) -> None:
        routes = iter_route_contexts(create_api(get_settings()).routes)
        endpoints = [route.endpoint for route in routes if getattr(route, "endpoint", None)]
        assert len(endpoints) > 40
        hints = [hint for endpoint in endpoints for hint in get_type_hints(endpoint).values()]
        assert [found for found in map(tables_in, hints) if found] == []

    def test_no_command_has_a_table(self) -> None:
        assert len(COMMANDS) > 20
        types = [one for command in COMMANDS.values() for one in (command.argument, command.output) if one]
        hints = [hint for command in COMMANDS.values() for hint in get_type_hints(command.handler).values()]
        assert [found for found in map(tables_in, types + hints) if found] == []

    def test_no_event_has_a_table(self) -> None:
        assert [found for found in map(tables_in, (*CLIENT_EVENTS, *NodeEvent.__subclasses__())) if found] == []
