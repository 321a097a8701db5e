"""What goes wrong in tests, and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, event, text
from sqlalchemy.util import await_only

from chat_app.db import Database

END_BACKEND = text("SELECT pg_terminate_backend(:pid, 5000)")


@contextmanager
def no_commits(database: Database, helper: Database) -> Iterator[None]:
    """Meanwhile every commit of the one database finds that its server process has just ended."""

    def end_backend(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        await_only(_end(helper, driver.get_server_pid()))

    event.listen(database.engine.sync_engine, "commit", end_backend)
    try:
        yield
    finally:
        event.remove(database.engine.sync_engine, "commit", end_backend)


async def _end(helper: Database, pid: int) -> None:
    async with helper.engine.connect() as connection:
        assert (await connection.execute(END_BACKEND, {"pid": pid})).scalar()
