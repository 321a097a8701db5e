"""The database: engine, sessions and the only commit; what was recorded leaves after it, in the order of versions."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from traceback import walk_tb
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import event as database_events
from sqlalchemy import func
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from chat_app import metrics
from chat_app.errors import ChatError, Unavailable
from chat_app.events import ChatsChanged, MessagesChanged, Recorded, recorded
from chat_app.logs import log, tell

SLOW_QUERY_SECONDS = 0.2
# How long a transaction may wait in all, for a connection, for locks and for answers: from asking for the connection to
# the answer to its commit. Those of an operator may wait longer.
PATIENCE_SECONDS = 3.0
OPERATOR_SECONDS = 60.0
# A command reports sooner that the server does not answer.
CONNECT_SECONDS = 10.0
# None is older than this when it commits.
LONGEST_TRANSACTION = timedelta(seconds=60)
# How often the process of a commit with unknown outcome is looked for, and how many times at most.
LOOK_SECONDS, MOST_LOOKS = 0.2, 300
# A plan is kept for what the tables were when it was made; a young one grows a thousandfold while it is in use.
PLAN_SECONDS = 10.0

SERVER_SETTINGS = {"timezone": "UTC", "jit": "off", "application_name": "chat_app"}
# What is done on the bare driver is found by its key, also while a young table has no statistics.
BY_KEY = dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off")
NOTHING: Mapping[str, str] = MappingProxyType({})


class RawConnection:
    """A transaction on the bare driver, for what is done thousands of times a second; `info` as a session has it."""

    __slots__ = ("_locks", "connection", "info", "planned_at")

    def __init__(self, connection: Any, info: dict[Any, Any]) -> None:
        self.connection = connection
        self.info = info
        self.planned_at = time.monotonic()
        self._locks: dict[str, Any] = {}

    @property
    def is_in_transaction(self) -> bool:
        """Raises InterfaceError if the connection is closed."""
        return bool(self._open().is_in_transaction())

    @property
    def process(self) -> int:
        """The number of the server's process. Raises InterfaceError if the connection is closed."""
        return int(self._open().get_server_pid())

    def _open(self) -> Any:
        # The driver does not check this for what it knows without asking.
        if self.connection.is_closed():
            raise asyncpg.InterfaceError("connection is closed")
        return self.connection

    async def fetch(self, statement: str, *values: object) -> list[Any]:
        started = time.perf_counter()
        rows: list[Any] = await self.connection.fetch(statement, *values)
        _log_if_slow(started, statement)
        return rows

    async def lock(self, statement: str, ids: Iterable[UUID], *, patience: float | None) -> None:
        """Run a statement of one argument, an array, for its locks alone; the transaction begins with it.

        `patience`: seconds to wait for a lock; None: as long as any. All of it is one round trip, planned once.
        """
        if statement not in self._locks:
            self._locks[statement] = await self.connection.prepare(statement)
        begin = "" if self.is_in_transaction else "BEGIN; "
        name, array = self._locks[statement].get_name(), ",".join(map(str, ids))
        wait = f"SET LOCAL lock_timeout = {round(patience * 1000)}; " if patience else ""
        started = time.perf_counter()
        await self.connection.execute(f"{begin}{wait}EXECUTE {name}('{{{array}}}')")
        _log_if_slow(started, statement)

    async def plan_anew(self) -> None:
        """Have the statements planned again, now and then."""
        if time.monotonic() - self.planned_at > PLAN_SECONDS:
            await self.connection.execute("DISCARD PLANS")
            self.planned_at = time.monotonic()

    async def commit(self) -> None:
        if self.is_in_transaction:
            await self.connection.execute("COMMIT")


class Deadlines:
    """Closes connections whose transaction has waited for too long, so that a task waiting for an answer gets an error.

    Cancelling the statement would wait too: the driver asks the server for it over another connection.
    """

    def __init__(self) -> None:
        self._timers: dict[Any, asyncio.TimerHandle] = {}

    def start(self, connection: Any, until: float) -> None:
        """`until` is a time of the event loop."""
        self.stop(connection)
        self._timers[connection] = asyncio.get_running_loop().call_at(until, self._end, connection)

    def stop(self, connection: Any) -> None:
        if timer := self._timers.pop(connection, None):
            timer.cancel()

    def _end(self, connection: Any) -> None:
        del self._timers[connection]
        connection.terminate()


# Until when the transaction that asks the pool for a connection may wait.
_deadline: ContextVar[float] = ContextVar("deadline")


class Pool(AsyncAdaptedQueuePool):
    """Its timeout is for the whole transaction, which begins to wait here."""

    def connect(self) -> Any:
        token = _deadline.set(asyncio.get_running_loop().time() + self._timeout)
        try:
            return super().connect()
        finally:
            _deadline.reset(token)


class Delivery(NamedTuple):
    """When a transaction's events have left, and after whose they leave, by the rows that it locked."""

    over: asyncio.Future[None]
    previous: dict[Hashable, asyncio.Future[None] | None]


class Busy(Unavailable):
    """Somebody else held the lock for too long."""


Db = AsyncSession | RawConnection
Listener = Callable[[list[Recorded]], int]
UnknownOutcome = Callable[[list[Recorded]], None]
Remover = Callable[[list[str]], Awaitable[None]]


async def _keep(_keys: list[str]) -> None:
    pass


class Database:
    """One engine. `on_commit` gets the recorded events of every commit and returns how many connections were told;
    `on_unknown_outcome` gets those of a commit whose outcome is unknown;
    `on_removal` gets the keys of files that are no longer needed after one.

    `patience`: seconds that a transaction may wait in all.
    """

    def __init__(self, url: str, *, pool_size: int = 10, patience: float | None = None) -> None:
        self.url = url.replace("+asyncpg", "", 1)
        self.patience = patience or PATIENCE_SECONDS
        self.engine = create_async_engine(
            url,
            poolclass=Pool,
            pool_size=pool_size,
            max_overflow=0,
            hide_parameters=True,
            pool_timeout=self.patience,
            # The driver reads the address, here as for batches: SQLAlchemy knows none of its options, such as sslmode.
            async_creator=lambda: self._connect(_deadline.get()),
        )
        self.on_commit: Listener = lambda events: 0
        self.on_unknown_outcome: UnknownOutcome = lambda events: None
        self.on_removal: Remover = _keep
        self._idle: list[RawConnection] = []
        self._readers = asyncio.Semaphore(pool_size)
        self._deadlines = Deadlines()
        self._removals: set[asyncio.Task[None]] = set()
        self._looking: set[asyncio.Task[None]] = set()
        self._deliveries: dict[Hashable, asyncio.Future[None]] = {}
        database_events.listen(self.engine.sync_engine, "before_cursor_execute", _start_clock)
        database_events.listen(self.engine.sync_engine, "after_cursor_execute", _log_slow_query)
        database_events.listen(self.engine.sync_engine, "checkout", self._lend)
        database_events.listen(self.engine.sync_engine, "checkin", self._take_back)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session whose work is committed at the end, once, and whose events then leave; or nothing of it.

        Raises Unavailable when the database can't be reached or does not answer in time.
        """
        db = AsyncSession(self.engine, expire_on_commit=False, autoflush=False)
        db.info.update(database=self, until=self._until())
        try:
            with _unavailable_without_database():
                async with db:
                    try:
                        yield db
                    except ChatError as error:
                        if error.commits:
                            await self._commit(db)
                        raise
                    await self._commit(db)
        finally:
            self._end_delivery(db)

    @asynccontextmanager
    async def batch(self, until: float | None = None) -> AsyncIterator[RawConnection]:
        """As transaction, on the bare driver: a third of the time of a session. Raises Unavailable.

        `until`: when it has waited for long enough, as a time of the event loop.
        """
        async with self._bare(until or self._until()) as batch:
            try:
                yield batch
                await self._commit(batch)
            finally:
                self._end_delivery(batch)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[RawConnection]:
        """The bare driver without a transaction: each statement sees what is committed when it begins.

        Raises Unavailable.
        """
        until = self._until()
        if self._readers.locked():
            with _unavailable_without_database():
                await asyncio.wait_for(self._readers.acquire(), self.patience)
        else:
            await self._readers.acquire()
        try:
            async with self._bare(until) as batch:
                yield batch
        finally:
            self._readers.release()

    @asynccontextmanager
    async def _bare(self, until: float) -> AsyncIterator[RawConnection]:
        with _unavailable_without_database():
            batch = self._idle_batch() or RawConnection(await self._connect(until, BY_KEY), {})
            self._deadlines.start(batch.connection, until)
            batch.info = {"database": self, "until": until}
            try:
                await batch.plan_anew()
                yield batch
            except ChatError:
                raise
            except BaseException:
                # The next user of the connection would get the answer to this statement.
                batch.connection.terminate()
                raise
            finally:
                self._give_back(batch)

    def _idle_batch(self) -> RawConnection | None:
        # Those that a restart of the database has ended are no loss.
        while self._idle:
            batch = self._idle.pop()
            if not batch.connection.is_closed():
                return batch
        return None

    async def _connect(self, until: float, more: Mapping[str, str] = NOTHING) -> Any:
        """A connection of the driver, closed at this time unless it is given back before."""
        patience = round(self.patience * 1000)
        limits = {
            # A server that waits no longer than its client leaves the connection whole.
            "lock_timeout": str(patience * 9 // 10),
            # These end what nobody waits for any more, before it makes others wait for its locks.
            "statement_timeout": str(patience),
            "idle_in_transaction_session_timeout": str(patience),
        }
        connection = await asyncpg.connect(
            self.url,
            timeout=min(max(until - asyncio.get_running_loop().time(), 0), CONNECT_SECONDS),
            command_timeout=self.patience,
            server_settings={**SERVER_SETTINGS, **limits, **more},
        )
        self._deadlines.start(connection, until)
        if more:
            await connection.set_type_codec("jsonb", encoder=str, decoder=orjson.loads, schema="pg_catalog")
        return connection

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self.patience

    def _lend(self, connection: Any, _record: Any, _fairy: Any) -> None:
        if connection.driver_connection.is_closed():
            raise DisconnectionError  # the pool opens another
        self._deadlines.start(connection.driver_connection, _deadline.get())

    def _take_back(self, connection: Any, _record: Any) -> None:
        if connection:  # else it was closed
            self._deadlines.stop(connection.driver_connection)

    def _give_back(self, batch: RawConnection) -> None:
        self._deadlines.stop(batch.connection)
        if batch.connection.is_closed():
            return
        if batch.is_in_transaction:
            batch.connection.terminate()
        else:
            self._idle.append(batch)

    async def _commit(self, db: Db) -> None:
        events = recorded(db)
        batch = await raw_connection(db) if events else None
        process = batch.process if batch else 0
        try:
            await db.commit()
        except BaseException:
            # Whether it was committed nobody knows: the answer may have been lost on its way.
            if batch:
                batch.connection.terminate()
                self.on_unknown_outcome(events)
                self._start(self._resync_again(process, events), self._looking)
            raise
        committed_at = time.perf_counter()
        self._start_removal(db)
        try:
            await self._wait_for_previous(db)
        except BaseException:
            if events:
                self.on_unknown_outcome(events)
            raise
        if events:
            tell("committed", events=len(events), versions=_versions(events))
            tell("delivered", connections=self.on_commit(events))
            metrics.delivery.observe(time.perf_counter() - committed_at)

    async def _resync_again(self, process: int, events: list[Recorded]) -> None:
        """Publish the resync again when the server's process has ended: until then the commit may still succeed, after
        the clients have resynced in vain.
        """
        for _ in range(MOST_LOOKS):
            try:
                async with self.reading() as batch:
                    if not await batch.fetch("SELECT 1 FROM pg_stat_activity WHERE pid = $1", process):
                        break
            except Unavailable:
                pass  # a frozen server commits nothing
            await asyncio.sleep(LOOK_SECONDS)
        self.on_unknown_outcome(events)

    async def _wait_for_previous(self, db: Db) -> None:
        if "delivery" not in db.info:
            return
        for previous in db.info["delivery"].previous.values():
            if previous is not None and not previous.done():
                seconds = db.info["until"] - asyncio.get_running_loop().time()
                if not (await asyncio.wait([previous], timeout=max(seconds, 0)))[0]:
                    raise TimeoutError("the commit before this one is not answered")

    def _start(self, work: Coroutine[None, None, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _start_removal(self, db: Db) -> None:
        if keys := db.info.get("removed_files"):
            self._start(self._remove(keys), self._removals)

    async def _remove(self, keys: list[str]) -> None:
        try:
            await self.on_removal(keys)
        except Exception as error:
            log.error("files not removed", files=keys, error=type(error).__name__)

    def _end_delivery(self, db: Db) -> None:
        delivery: Delivery | None = db.info.get("delivery")
        if delivery is None:
            return
        waited_for = [previous for previous in delivery.previous.values() if previous and not previous.done()]
        if waited_for:  # it failed while it waited: whoever comes next has to wait instead
            waited_for[0].add_done_callback(lambda _: self._end_delivery(db))
            return
        delivery.over.set_result(None)
        for row in delivery.previous:
            if self._deliveries.get(row) is delivery.over:
                del self._deliveries[row]

    def order_delivery(self, db: Db, row: Hashable) -> None:
        """Call when the lock of a row is held, a chat's or a membership's: its events leave after those of whoever
        held the lock before.

        The database answers two commits of one chat in their order, but on two sockets that may be read in any.
        """
        delivery: Delivery | None = db.info.get("delivery")
        if delivery is None:
            delivery = db.info["delivery"] = Delivery(asyncio.get_running_loop().create_future(), {})
        if row not in delivery.previous:
            delivery.previous[row] = self._deliveries.get(row)
            self._deliveries[row] = delivery.over

    async def close(self) -> None:
        """Finish removing files, then close every connection."""
        await asyncio.gather(*self._removals)
        for looking in self._looking:
            looking.cancel()
        for batch in self._idle:
            batch.connection.terminate()
        await self.engine.dispose()


def database_of(db: Db) -> Database:
    """The database that a session belongs to."""
    database: Database = db.info["database"]
    return database


def remove_files(db: Db, keys: Iterable[str]) -> None:
    """Files that nothing refers to once this transaction is committed: removed then, and kept by a rollback."""
    db.info.setdefault("removed_files", []).extend(keys)


async def raw_connection(db: Db) -> RawConnection:
    """The bare driver of a session, within its transaction."""
    if isinstance(db, RawConnection):
        return db
    await db.flush()
    batch = RawConnection((await (await db.connection()).get_raw_connection()).driver_connection, db.info)
    if not batch.is_in_transaction:
        await db.exec(select(1))  # its BEGIN comes with the first statement
    return batch


async def read_clock(db: AsyncSession) -> datetime:
    """The database's time: nodes may disagree, and under a chat's lock it agrees with the order of changes."""
    now: datetime = (await db.exec(select(func.clock_timestamp()))).one()
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


@contextmanager
def _unavailable_without_database() -> Iterator[None]:
    """Raises Unavailable for all that says that the database is away or too slow, Busy if others hold a lock."""
    try:
        yield
    except (OSError, PoolTimeout, DBAPIError, AttributeError, *_OF_THE_DRIVER) as error:
        if isinstance(error, AttributeError) and not _is_raised_by_driver(error):
            raise
        cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error
        is_closed = isinstance(error, DBAPIError) and error.connection_invalidated
        if isinstance(cause, asyncpg.PostgresError) and not is_closed and not _is_passing(cause):
            raise
        metrics.database_unavailable.inc()
        log.warning("database unavailable", error=type(cause).__name__)
        raise Busy if isinstance(cause, asyncpg.LockNotAvailableError) else Unavailable from error


# The last one comes from a connection that is just closing.
_OF_THE_DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def _is_raised_by_driver(error: Exception) -> bool:
    """A connection that is terminated between two steps of one statement has no protocol left to ask."""
    *_, (frame, _line) = walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("asyncpg.")


def _is_passing(error: asyncpg.PostgresError) -> bool:
    # 53: too many connections, disk full · 57: shut down, cancelled, timed out · 55P03: lock timeout · 40: deadlock
    code = str(error.sqlstate or "")
    is_passing = code[:2] in ("08", "40", "53", "57") or code == "55P03" or code[:3] == "25P"
    return is_passing or isinstance(error, asyncpg.InvalidCachedStatementError)


def _start_clock(connection: Any, _cursor: Any, _statement: str, _values: Any, _context: Any, _many: bool) -> None:
    connection.info["query_started"] = time.perf_counter()


def _log_slow_query(connection: Any, _cursor: Any, statement: str, _values: Any, _context: Any, _many: bool) -> None:
    _log_if_slow(connection.info["query_started"], statement)


def _log_if_slow(started: float, statement: str) -> None:
    seconds = time.perf_counter() - started
    if seconds > SLOW_QUERY_SECONDS:
        log.warning("slow query", ms=round(seconds * 1000), statement=" ".join(statement.split())[:500])
