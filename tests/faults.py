"""Faults of the database, for tests only."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.util import await_only

from chat_app.database import Database
from chat_app.driver import RawConnection

END_BACKEND = text("SELECT pg_terminate_backend(:pid, 5000)")


@contextmanager
def no_commits(
    database: Database, helper: Database, *, of_sends_only: bool = False, take_place: bool = False
) -> Iterator[None]:
    """In this block the server process of every transaction of `database` ends right before its commit.

    `of_sends_only`: only those of sends. `take_place`: those of sessions commit, and only the answer is lost.
    """

    def end_backend(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        if take_place:
            await_only(driver.execute("COMMIT"))
        await_only(_end(helper, driver.get_server_pid()))

    commit_batch = RawConnection.commit

    async def end_and_commit_batch(batch: RawConnection) -> None:
        await _end(helper, batch.connection.get_server_pid())
        await commit_batch(batch)

    if not of_sends_only:
        event.listen(database.engine.sync_engine, "commit", end_backend)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RawConnection, "commit", end_and_commit_batch)
        try:
            yield
        finally:
            if not of_sends_only:
                event.remove(database.engine.sync_engine, "commit", end_backend)


@contextmanager
def no_reads(helper: Database) -> Iterator[None]:
    """In this block the server process ends before every statement on a raw connection."""
    with _fetches_ended(helper, lambda: True):
        yield


@contextmanager
def no_reads_after_commits(database: Database, helper: Database, of: str) -> Iterator[None]:
    """As no_reads, after `database` has committed a transaction with a statement that contains `of`."""
    engine, written, committed = database.engine.sync_engine, list[Connection](), list[Connection]()

    def note_statement(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if of in statement:
            written.append(connection)

    def note_commit(connection: Connection) -> None:
        if connection in written:
            committed.append(connection)

    event.listen(engine, "before_cursor_execute", note_statement)
    event.listen(engine, "commit", note_commit)
    try:
        with _fetches_ended(helper, lambda: bool(committed)):
            yield
    finally:
        event.remove(engine, "before_cursor_execute", note_statement)
        event.remove(engine, "commit", note_commit)


@contextmanager
def _fetches_ended(helper: Database, condition: Callable[[], bool]) -> Iterator[None]:
    fetch = RawConnection.fetch

    async def end_and_fetch(batch: RawConnection, statement: str, *values: object) -> list[Any]:
        if condition():
            await _end(helper, batch.connection.get_server_pid())
        return await fetch(batch, statement, *values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RawConnection, "fetch", end_and_fetch)
        yield


def once_read(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], Awaitable[None]], of: str = "\nFROM message", times: int = 1
) -> None:
    """Call `act` when the raw connections have answered `times` statements with `of`, before the rows are used."""
    fetch, read = RawConnection.fetch, count(1)

    async def fetch_and_act(batch: RawConnection, statement: str, *values: Any) -> list[Any]:
        rows = await fetch(batch, statement, *values)
        if of in statement and next(read) == times:
            await act()
        return rows

    monkeypatch.setattr(RawConnection, "fetch", fetch_and_act)


async def _end(helper: Database, pid: int) -> None:
    async with helper.engine.connect() as connection:
        assert (await connection.execute(END_BACKEND, {"pid": pid})).scalar()
