"""The database: engine, sessions and the only commit; what was recorded leaves after it, in the order of versions."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import event as database_events
from sqlalchemy import func
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from chat_app import metrics
from chat_app.errors import ChatError, Unavailable
from chat_app.events import ChatsChanged, MessagesChanged, Recorded, recorded
from chat_app.logs import log, tell

SLOW_QUERY_SECONDS = 0.2
LOCK_SECONDS = 5.0
LONGEST_TRANSACTION = timedelta(seconds=60)
# A plan is kept for what the tables were when it was made; a young one grows a thousandfold while it is in use.
PLAN_SECONDS = 10.0

# A statement or a wait that takes longer is given up, so no transaction is older than this when it commits.
SERVER_SETTINGS = {
    "statement_timeout": "10000",
    "lock_timeout": f"{LOCK_SECONDS:.0f}s",
    "idle_in_transaction_session_timeout": "15000",
    "timezone": "UTC",
    "jit": "off",
    "application_name": "chat_app",
}


class Batch:
    """A transaction on the bare driver, for what is done thousands of times a second; `info` as a session has it."""

    __slots__ = ("_locks", "connection", "info", "planned_at")

    def __init__(self, connection: Any, info: dict[Any, Any]) -> None:
        self.connection = connection
        self.info = info
        self.planned_at = time.monotonic()
        self._locks: dict[str, Any] = {}

    @classmethod
    async def connect(cls, url: str) -> Self:
        # What is done here is found by its key, also while a young table has no statistics.
        by_key = dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off")
        settings = CONNECT["server_settings"] | by_key
        connection = await asyncpg.connect(url, **CONNECT | {"server_settings": settings})
        await connection.set_type_codec("jsonb", encoder=str, decoder=orjson.loads, schema="pg_catalog")
        return cls(connection, {})

    async def fetch(self, statement: str, *values: object) -> list[Any]:
        started = time.perf_counter()
        rows: list[Any] = await self.connection.fetch(statement, *values)
        _tell_if_slow(started, statement)
        return rows

    async def lock(self, statement: str, ids: Iterable[UUID], *, patience: float) -> None:
        """Run a statement of one argument, an array, for its locks alone; the transaction begins with it.

        `patience`: seconds to wait for a lock. All of it is one round trip, planned once.
        """
        if statement not in self._locks:
            self._locks[statement] = await self.connection.prepare(statement)
        begin = "" if self.connection.is_in_transaction() else "BEGIN; "
        name, array = self._locks[statement].get_name(), ",".join(map(str, ids))
        wait = f"SET LOCAL lock_timeout = {round(patience * 1000)}"
        started = time.perf_counter()
        await self.connection.execute(f"{begin}{wait}; EXECUTE {name}('{{{array}}}')")
        _tell_if_slow(started, statement)

    async def plan_anew(self) -> None:
        """Have the statements planned again, now and then."""
        if time.monotonic() - self.planned_at > PLAN_SECONDS:
            await self.connection.execute("DISCARD PLANS")
            self.planned_at = time.monotonic()

    async def commit(self) -> None:
        if self.connection.is_in_transaction():
            await self.connection.execute("COMMIT")


CONNECT: dict[str, Any] = {"timeout": 3, "command_timeout": 12, "server_settings": SERVER_SETTINGS}


class Turn(NamedTuple):
    """When a transaction's events have left, and after whose they leave, by the rows that it locked."""

    over: asyncio.Future[None]
    previous: dict[Hashable, asyncio.Future[None] | None]


class Busy(Unavailable):
    """Somebody else held the lock for too long."""


Unit = AsyncSession | Batch
Listener = Callable[[list[Recorded]], int]
Doubter = Callable[[list[Recorded]], None]
Remover = Callable[[list[str]], Awaitable[None]]


async def _keep(_keys: list[str]) -> None:
    pass


class Database:
    """One engine. `on_commit` gets the recorded events of every commit and returns how many connections were told;
    `on_doubt` gets those of a commit whose outcome is unknown;
    `on_removal` gets the keys of files that are no longer needed after one.
    """

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = url.replace("+asyncpg", "", 1)
        self.engine = create_async_engine(
            url,
            # The driver reads the address, here as for batches: SQLAlchemy knows none of its options, such as sslmode.
            async_creator=lambda: asyncpg.connect(self.url, **CONNECT),
            pool_size=pool_size,
            max_overflow=0,
            hide_parameters=True,
            pool_timeout=3,
        )
        self.on_commit: Listener = lambda events: 0
        self.on_doubt: Doubter = lambda events: None
        self.on_removal: Remover = _keep
        self._idle: list[Batch] = []
        self._readers = asyncio.Semaphore(pool_size)
        self._removals: set[asyncio.Task[None]] = set()
        self._turns: dict[Hashable, asyncio.Future[None]] = {}
        database_events.listen(self.engine.sync_engine, "before_cursor_execute", _start_clock)
        database_events.listen(self.engine.sync_engine, "after_cursor_execute", _log_slow_query)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session whose work is committed at the end, once, and whose events then leave; or nothing of it.

        Raises Unavailable when the database can't be reached or does not answer.
        """
        session = AsyncSession(self.engine, expire_on_commit=False, autoflush=False)
        session.info["database"] = self
        try:
            async with session:
                try:
                    yield session
                except ChatError as error:
                    if error.commits:
                        await self._commit(session)
                    raise
                await self._commit(session)
        except (OSError, PoolTimeout, InterfaceError, asyncpg.CannotConnectNowError) as error:
            raise _unavailable(error) from error
        except DBAPIError as error:
            if error.connection_invalidated or isinstance(error, OperationalError) or _is_passing(_code(error)):
                raise _unavailable(error) from error
            raise
        finally:
            self._end_turns(session)

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[Batch]:
        """As transaction, on the bare driver: a third of the time of a session. Raises Unavailable."""
        async with self._bare() as batch:
            try:
                yield batch
                await self._commit(batch)
            finally:
                self._end_turns(batch)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Batch]:
        """The bare driver without a transaction: each statement sees what is committed when it begins.

        Raises Unavailable.
        """
        try:
            await (asyncio.wait_for(self._readers.acquire(), 3) if self._readers.locked() else self._readers.acquire())
        except TimeoutError as error:
            raise _unavailable(error) from error
        try:
            async with self._bare() as batch:
                yield batch
        finally:
            self._readers.release()

    @asynccontextmanager
    async def _bare(self) -> AsyncIterator[Batch]:
        batch: Batch | None = None
        try:
            # Those that a restart of the database has ended are no loss.
            while batch is None and self._idle:
                batch = self._idle.pop()
                batch = None if batch.connection.is_closed() else batch
            batch = batch or await Batch.connect(self.url)
            batch.info = {"database": self}
            await batch.plan_anew()
            yield batch
        except (OSError, asyncpg.InterfaceError) as error:
            raise _unavailable(error) from error
        except asyncpg.PostgresError as error:
            if isinstance(error, asyncpg.LockNotAvailableError):
                raise Busy from error
            if _is_passing(error.sqlstate) or isinstance(error, asyncpg.InvalidCachedStatementError):
                raise _unavailable(error) from error
            raise
        finally:
            if batch is not None:
                self._give_back(batch)

    def _give_back(self, batch: Batch) -> None:
        if batch.connection.is_in_transaction():
            batch.connection.terminate()
        elif not batch.connection.is_closed():
            self._idle.append(batch)

    async def _commit(self, session: Unit) -> None:
        try:
            await session.commit()
            committed_at = time.perf_counter()
            self._start_removal(session)
            if "turn" in session.info:
                for previous in session.info["turn"].previous.values():
                    if previous is not None and not previous.done():
                        await asyncio.wait([previous])
        except BaseException:
            # Whether it was committed nobody knows: the answer may have been lost on its way.
            if events := recorded(session):
                self.on_doubt(events)
            raise
        events = recorded(session)
        if events:
            tell("committed", events=len(events), versions=_versions(events))
            tell("delivered", connections=self.on_commit(events))
            metrics.delivery.observe(time.perf_counter() - committed_at)

    def _start_removal(self, session: Unit) -> None:
        if keys := session.info.get("removed_files"):
            removal = asyncio.create_task(self._remove(keys))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    async def _remove(self, keys: list[str]) -> None:
        try:
            await self.on_removal(keys)
        except Exception as error:
            log.error("files not removed", files=keys, error=type(error).__name__)

    def _end_turns(self, session: Unit) -> None:
        turn: Turn | None = session.info.get("turn")
        if turn is None:
            return
        waited_for = [previous for previous in turn.previous.values() if previous and not previous.done()]
        if waited_for:  # it failed while it waited: whoever comes next has to wait instead
            waited_for[0].add_done_callback(lambda _: self._end_turns(session))
            return
        turn.over.set_result(None)
        for row in turn.previous:
            if self._turns.get(row) is turn.over:
                del self._turns[row]

    def take_turn(self, session: Unit, row: Hashable) -> None:
        """Call when the lock of a row is held, a chat's or a membership's: its events leave after those of whoever
        held the lock before.

        The database answers two commits of one chat in their order, but on two sockets that may be read in any.
        """
        turn: Turn | None = session.info.get("turn")
        if turn is None:
            turn = session.info["turn"] = Turn(asyncio.get_running_loop().create_future(), {})
        if row not in turn.previous:
            turn.previous[row] = self._turns.get(row)
            self._turns[row] = turn.over

    async def close(self) -> None:
        """Finish removing files, then close every connection."""
        await asyncio.gather(*self._removals)
        for batch in self._idle:
            batch.connection.terminate()
        await self.engine.dispose()


def database_of(session: Unit) -> Database:
    """The database that a session belongs to."""
    database: Database = session.info["database"]
    return database


def remove_files(session: Unit, keys: Iterable[str]) -> None:
    """Files that nothing refers to once this transaction is committed: removed then, and kept by a rollback."""
    session.info.setdefault("removed_files", []).extend(keys)


async def as_batch(session: Unit) -> Batch:
    """The bare driver of a session, within its transaction."""
    if isinstance(session, Batch):
        return session
    await session.flush()
    connection: Any = (await (await session.connection()).get_raw_connection()).driver_connection
    if not connection.is_in_transaction():
        await session.exec(select(1))  # its BEGIN comes with the first statement
    return Batch(connection, session.info)


async def read_clock(session: AsyncSession) -> datetime:
    """The database's time: nodes may disagree, and under a chat's lock it agrees with the order of changes."""
    now: datetime = (await session.exec(select(func.clock_timestamp()))).one()
    return now


def _versions(events: list[Recorded]) -> dict[str, int]:
    """The chats that got a new version, for the log."""
    versions: dict[UUID, int] = {}
    for event, _ in events:
        if isinstance(event, MessagesChanged):
            versions[event.chat_id] = event.version
        elif isinstance(event, ChatsChanged):
            for chat in event.chats:
                versions[chat.id] = chat.version
            for removed in event.removed:
                versions[removed.chat_id] = removed.version
    return {str(chat_id): version for chat_id, version in versions.items()}


def _code(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", "") or "")


def _is_passing(code: str) -> bool:
    # 53: too many connections, disk full · 57: shut down, cancelled, timed out · 55P03: lock timeout · 40: deadlock
    return code[:2] in ("08", "40", "53", "57") or code == "55P03" or code[:3] == "25P"


def _unavailable(error: BaseException) -> Unavailable:
    metrics.database_unavailable.inc()
    log.warning("database unavailable", error=type(error).__name__)
    return Unavailable()


def _start_clock(connection: Any, _cursor: Any, _statement: str, _values: Any, _context: Any, _many: bool) -> None:
    connection.info["query_started"] = time.perf_counter()


def _log_slow_query(connection: Any, _cursor: Any, statement: str, _values: Any, _context: Any, _many: bool) -> None:
    _tell_if_slow(connection.info["query_started"], statement)


def _tell_if_slow(started: float, statement: str) -> None:
    seconds = time.perf_counter() - started
    if seconds > SLOW_QUERY_SECONDS:
        log.warning("slow query", ms=round(seconds * 1000), statement=" ".join(statement.split())[:500])
