"""The driver: opens connections, lends raw ones, closes those that wait for too long, and translates its errors."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from traceback import walk_tb
from typing import Any, Self
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from chat_app import metrics
from chat_app.errors import ChatError, Unavailable
from chat_app.logs import log

SLOW_QUERY_SECONDS = 0.2
# A command reports sooner that the server does not answer.
CONNECT_SECONDS = 10.0
# The server keeps plans for the tables as they were. A young table grows a thousandfold while a plan is in use.
PLAN_SECONDS = 10.0

SERVER_SETTINGS = {"timezone": "UTC", "jit": "off", "application_name": "chat_app"}
# Raw statements find their rows by key, also while a young table has no statistics.
BY_KEY = dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off")


class Busy(Unavailable):
    """Another transaction held the lock for too long."""


class RawConnection:
    """A connection of the driver, for work done thousands of times a second. `info`: as of a database session."""

    def __init__(self, connection: Any, info: dict[Any, Any]) -> None:
        self.connection = connection
        self.info = info
        self.planned_at = time.monotonic()
        self._locks: dict[str, Any] = {}

    @property
    def is_in_transaction(self) -> bool:
        return bool(self.connection.is_in_transaction())

    async def raw(self) -> Self:
        return self

    async def fetch(self, statement: str, *values: object) -> list[Any]:
        started = time.perf_counter()
        rows: list[Any] = await self.connection.fetch(statement, *values)
        _log_if_slow(started, statement)
        return rows

    async def lock(self, statement: str, ids: Iterable[UUID], *, patience: float | None) -> None:
        """Run a statement of one argument, an array, for its locks alone; the transaction begins with it.

        `patience`: seconds to wait for a lock; None: as long as for any. All of this is one round trip, planned once.
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
        """Let the server make new plans from time to time."""
        if time.monotonic() - self.planned_at > PLAN_SECONDS:
            await self.connection.execute("DISCARD PLANS")
            self.planned_at = time.monotonic()

    async def commit(self) -> None:
        if self.is_in_transaction:
            await self.connection.execute("COMMIT")


# The time until which the transaction that requests a connection from the pool may wait.
_deadline: ContextVar[float] = ContextVar("deadline")


class Pool(AsyncAdaptedQueuePool):
    """Its timeout holds for the whole transaction, which begins to wait here."""

    def connect(self) -> Any:
        token = _deadline.set(asyncio.get_running_loop().time() + self._timeout)
        try:
            return super().connect()
        finally:
            _deadline.reset(token)


class Driver:
    """The connections to one server. It closes one whose transaction waits for too long; its task then gets an error.

    To cancel the statement would have to wait too: the driver needs another connection for it.
    """

    def __init__(self, url: str, patience: float) -> None:
        self.url = url
        self.patience = patience
        # Raw connections that are free, and the ends of all transactions under way.
        self.idle: list[RawConnection] = []
        self.deadlines: dict[Any, asyncio.TimerHandle] = {}

    def engine(self, url: str, pool_size: int) -> AsyncEngine:
        """The connections of database sessions, in a pool."""
        engine = create_async_engine(
            url,
            poolclass=Pool,
            pool_size=pool_size,
            max_overflow=0,
            hide_parameters=True,
            pool_timeout=self.patience,
            # The driver reads the address: SQLAlchemy knows none of its options, such as sslmode.
            async_creator=lambda: self._connect(_deadline.get()),
        )
        event.listen(engine.sync_engine, "before_cursor_execute", _start_clock)
        event.listen(engine.sync_engine, "after_cursor_execute", _log_slow_query)
        event.listen(engine.sync_engine, "checkout", self._lend)
        event.listen(engine.sync_engine, "checkin", self._take_back)
        return engine

    @asynccontextmanager
    async def borrow(self, until: float) -> AsyncIterator[RawConnection]:
        """A raw connection, closed at this time of the event loop unless it is given back before."""
        # A restart of the server ended the others.
        self.idle = [raw for raw in self.idle if not raw.connection.is_closed()]
        raw = self.idle.pop() if self.idle else RawConnection(await self._connect(until, BY_KEY), {})
        self._start_deadline(raw.connection, until)
        raw.info = {}
        try:
            await raw.plan_anew()
            yield raw
        except ChatError:
            raise
        except BaseException:
            # The next user of the connection would get the answer to this statement.
            raw.connection.terminate()
            raise
        finally:
            self._stop_deadline(raw.connection)
            if not raw.connection.is_closed():
                if raw.is_in_transaction:
                    raw.connection.terminate()
                else:
                    self.idle.append(raw)

    async def _connect(self, until: float, more: Mapping[str, str] | None = None) -> Any:
        patience = round(self.patience * 1000)
        # The server ends statements whose client has given up, before others wait for their locks.
        limits = dict.fromkeys(("statement_timeout", "idle_in_transaction_session_timeout"), str(patience))
        # If it gives up a lock before the client does, the connection stays whole.
        limits["lock_timeout"] = str(patience * 9 // 10)
        connection = await asyncpg.connect(
            self.url,
            timeout=min(max(until - asyncio.get_running_loop().time(), 0), CONNECT_SECONDS),
            command_timeout=self.patience,
            server_settings={**SERVER_SETTINGS, **limits, **(more or {})},
        )
        self._start_deadline(connection, until)
        if more:
            for kind in ("json", "jsonb"):
                await connection.set_type_codec(kind, encoder=str, decoder=orjson.loads, schema="pg_catalog")
        return connection

    def _lend(self, connection: Any, _record: Any, _fairy: Any) -> None:
        if connection.driver_connection.is_closed():
            raise DisconnectionError  # the pool opens another
        self._start_deadline(connection.driver_connection, _deadline.get())

    def _take_back(self, connection: Any, _record: Any) -> None:
        if connection:  # else it was closed
            self._stop_deadline(connection.driver_connection)

    def _start_deadline(self, connection: Any, until: float) -> None:
        self._stop_deadline(connection)
        self.deadlines[connection] = asyncio.get_running_loop().call_at(until, self._end, connection)

    def _stop_deadline(self, connection: Any) -> None:
        if timer := self.deadlines.pop(connection, None):
            timer.cancel()

    def _end(self, connection: Any) -> None:
        del self.deadlines[connection]
        connection.terminate()

    def close(self) -> None:
        for raw in self.idle:
            raw.connection.terminate()


@contextmanager
def unavailable_without_database() -> Iterator[None]:
    """Raises Unavailable for every error of a database that is away or too slow, Busy if others hold a lock."""
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
