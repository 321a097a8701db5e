"""What goes wrong in tests, and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.util import await_only

from chat_app.db import Batch, Database

END_BACKEND = text("SELECT pg_terminate_backend(:pid, 5000)")


@contextmanager
def no_commits(database: Database, helper: Database, *, of_sends_only: bool = False) -> Iterator[None]:
    """Meanwhile every commit of the one database finds that its server process has just ended.

    `of_sends_only`: only those of batches do.
    """

    def end_backend(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        await_only(_end(helper, driver.get_server_pid()))

    commit_batch = Batch.commit

    async def end_and_commit_batch(batch: Batch) -> None:
        await _end(helper, batch.connection.get_server_pid())
        await commit_batch(batch)

    if not of_sends_only:
        event.listen(database.engine.sync_engine, "commit", end_backend)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "commit", end_and_commit_batch)
        try:
            yield
        finally:
            if not of_sends_only:
                event.remove(database.engine.sync_engine, "commit", end_backend)


@contextmanager
def no_reads(helper: Database) -> Iterator[None]:
    """Meanwhile every statement on the bare driver finds that its server process has just ended."""
    fetch = Batch.fetch

    async def end_and_fetch(batch: Batch, statement: str, *values: object) -> list[Any]:
        await _end(helper, batch.connection.get_server_pid())
        return await fetch(batch, statement, *values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "fetch", end_and_fetch)
        yield


async def _end(helper: Database, pid: int) -> None:
    async with helper.engine.connect() as connection:
        assert (await connection.execute(END_BACKEND, {"pid": pid})).scalar()
