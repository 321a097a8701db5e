"""The database: its sessions, and the only commit, which releases the recorded events in their delivery order."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import func
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from chat_app import metrics
from chat_app.background import Background
from chat_app.delivery import Last, Place
from chat_app.driver import Driver, RawConnection, unavailable_without_database
from chat_app.errors import ChatError, Unavailable
from chat_app.events import Reach, Recorded, recorded
from chat_app.logs import AUDIT, bind, log, log_info

# How long a transaction may wait in all, for a connection, for locks and for answers: from the request for the
# connection to the answer to its commit. An operator's transactions may wait longer.
PATIENCE_SECONDS = 3.0
OPERATOR_SECONDS = 60.0
# No transaction is older than this when it commits.
LONGEST_TRANSACTION = timedelta(seconds=60)
# Seconds between two looks for the process of a commit with unknown outcome, and how many there are at most.
LOOK_SECONDS, MOST_LOOKS = 0.2, 300


class Delivery(Protocol):
    """Receives the events of each commit. These defaults deliver nothing."""

    def deliver(self, events: list[Recorded]) -> int:
        """Deliver what a commit released. Returns how many connections it reached."""
        return 0

    def resync(self, events: list[Recorded]) -> None:
        """Ask the audience of these events to resync: the outcome of their commit is unknown."""
        return


class NoDelivery(Delivery):
    """For commands: they run without connections, and the nodes find their changes in the database."""


class Transaction(AsyncSession):
    """A database session that also runs plain SQL."""

    async def raw(self) -> RawConnection:
        """The raw connection below, within the transaction."""
        await self.flush()
        raw = RawConnection((await (await self.connection()).get_raw_connection()).driver_connection, self.info)
        if not raw.is_in_transaction:
            await self.exec(select(1))  # its BEGIN comes with the first statement
        return raw

    async def fetch(self, statement: str, *values: object) -> list[Any]:
        return await (await self.raw()).fetch(statement, *values)


# For reading; a Transaction also reads its own changes.
Db = Transaction | RawConnection


@dataclass(eq=False)
class Database:
    """An engine with its raw connections. Its commits release their events.

    `remove_files` gets the keys of files that a commit made superfluous. `online`: the users who are online, which use
    cases read in `info`. `patience`: seconds that a transaction may wait in all.
    """

    url: str
    _: KW_ONLY
    delivery: Delivery = field(default_factory=NoDelivery)
    remove_files: Callable[[list[str]], Awaitable[None]] | None = None
    online: Container[UUID] = frozenset()
    pool_size: int = 10
    patience: float = field(default_factory=lambda: PATIENCE_SECONDS)

    def __post_init__(self) -> None:
        self._driver = Driver(self.url.replace("+asyncpg", "", 1), self.patience)
        self.engine = self._driver.engine(self.url, self.pool_size)
        self._readers = asyncio.Semaphore(self.pool_size)
        self._last: Last = {}
        self._removals = Background()
        self._looks = Background()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction that is committed at the end, once, and then releases its events. An error rolls it back.

        Raises Unavailable when the database can't be reached or does not answer in time.
        """
        db = Transaction(self.engine, expire_on_commit=False, autoflush=False, info={"online": self.online})
        until = self._until()
        with closing(Place(db, self._last)), unavailable_without_database():
            async with db:
                try:
                    yield db
                except ChatError as error:
                    if error.commits:
                        await self._commit(db, until)
                    raise
                await self._commit(db, until)

    @asynccontextmanager
    async def raw_transaction(self, until: float | None = None) -> AsyncIterator[RawConnection]:
        """As transaction, on a raw connection: it takes a third of the time. Raises Unavailable.

        `until`: the end of its patience, as a time of the event loop.
        """
        until = until or self._until()
        with unavailable_without_database():
            async with self._driver.borrow(until) as raw:
                with closing(Place(raw, self._last)):
                    yield raw
                    await self._commit(raw, until)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[RawConnection]:
        """A raw connection without a transaction: each statement sees what is committed when it begins.

        Raises Unavailable.
        """
        until = self._until()
        with unavailable_without_database():
            async with asyncio.timeout_at(until if self._readers.locked() else None):
                await self._readers.acquire()
            try:
                async with self._driver.borrow(until) as raw:
                    raw.info["online"] = self.online
                    yield raw
            finally:
                self._readers.release()

    def sample(self) -> None:
        """Set the metrics of the connections."""
        pool: Any = self.engine.pool
        changes, reads = pool.checkedout(), pool.size() - self._readers._value
        uses = {"changes": changes, "reads": reads, "sends": max(len(self._driver.deadlines) - changes - reads, 0)}
        for use, count in {**uses, "idle": pool.checkedin() + len(self._driver.idle)}.items():
            metrics.database_connections.labels(use).set(count)
        metrics.pool_size.set(pool.size())
        # There are no public counters of those that wait.
        metrics.pool_waiting.labels("changes").set(len(pool._pool._queue._getters))
        metrics.pool_waiting.labels("reads").set(len(self._readers._waiters or ()))

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self.patience

    async def _commit(self, db: Db, until: float) -> None:
        events = recorded(db)
        connection = (await db.raw()).connection if events else None
        process = connection.get_server_pid() if connection else 0
        try:
            await db.commit()
        except BaseException:
            # The outcome is unknown: the answer may have been lost on its way.
            if connection:
                connection.terminate()
                self.delivery.resync(events)
                self._looks.spawn(self._resync_again(process, events))
            raise
        committed_at = time.perf_counter()
        notes = db.info.get("notes", [])
        if events or notes:
            log_info("committed", events=len(events), versions=_versions(events))
        for event in filter(None, notes):
            log_info(event, AUDIT)
        if keys := db.info.get("superfluous_files"):
            self._removals.spawn(self._remove(keys))
        try:
            await db.info["place"].wait(until)
        except BaseException:
            if events:
                self.delivery.resync(events)
            raise
        if events:
            log_info("delivered", connections=self.delivery.deliver(events))
            metrics.delivery.observe(time.perf_counter() - committed_at)

    async def _resync_again(self, process: int, events: list[Recorded]) -> None:
        """Ask for the resync again when the server's process has ended: until then the commit may still succeed, after
        the clients have resynced in vain.
        """
        for _ in range(MOST_LOOKS):
            try:
                async with self.reading() as db:
                    if not await db.fetch("SELECT 1 FROM pg_stat_activity WHERE pid = $1", process):
                        break
            except Unavailable:
                pass  # a frozen server commits nothing
            await asyncio.sleep(LOOK_SECONDS)
        self.delivery.resync(events)

    async def _remove(self, keys: list[str]) -> None:
        try:
            if self.remove_files:
                await self.remove_files(keys)
        except Exception as error:
            log.error("files not removed", files=keys, error=type(error).__name__)

    async def close(self) -> None:
        """Finish removing files, then close every connection."""
        await self._removals.finish()
        await self._looks.close()
        self._driver.close()
        await self.engine.dispose()


def remove_files(db: Db, keys: Iterable[str]) -> None:
    """Remove these files when the transaction is committed: nothing refers to them then. A rollback keeps them."""
    db.info.setdefault("superfluous_files", []).extend(keys)


def note(db: Db, security_event: str | None = None, **ids: object) -> None:
    """Have the commit logged, also without events. `ids`: what it makes, changes or removes, for the log context."""
    bind(**ids)
    db.info.setdefault("notes", []).append(security_event)


async def read_clock(db: AsyncSession) -> datetime:
    """The database's time: nodes may disagree, and under a chat's lock it agrees with the order of changes."""
    now: datetime = (await db.exec(select(func.clock_timestamp()))).one()
    return now


def _versions(events: list[Recorded]) -> dict[str, int]:
    """The chats that got a new version, for the log."""
    headers = [event.header for event in events if event.kind.reach is not Reach.NODE]
    versions = ((str(header.chat_id), header.version or header.removed_version) for header in headers)
    return {chat_id: version for chat_id, version in versions if version}
