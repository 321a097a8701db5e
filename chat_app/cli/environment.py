"""Prepares what a command needs: a database, a bus, the tables, and in development the demo data."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeVar

from pydantic import SecretStr
from rich.console import Console

from chat_app import migrations
from chat_app.addresses import bus_fault, database_fault
from chat_app.background import run
from chat_app.cli.embedded import embedded_postgres, embedded_valkey, running_postgres
from chat_app.cli.operate import find_fault
from chat_app.cli.process import Refusal
from chat_app.cli.seed import seed
from chat_app.database import OPERATOR_SECONDS, Database
from chat_app.live.bus import connect
from chat_app.settings import Settings, get_settings, use_settings

Result = TypeVar("Result")

# stdout is for the output of commands.
console = Console(stderr=True)


@contextmanager
def environment(*, workers: int = 0, is_checked: bool = True, may_start: bool = True) -> Iterator[Settings]:
    """Settings with a database, and with a bus if several workers serve. Development starts what is not configured.

    `may_start=False` uses only a database that runs. Raises Refusal if something is missing or can't be used.
    """
    settings = get_settings()
    needs_bus = workers > 1 and settings.bus_url is None
    if settings.database_url is None and not settings.is_development:
        raise Refusal("CHAT_DATABASE_URL is required in production")
    if needs_bus and not settings.is_development:
        raise Refusal("Several workers in production need CHAT_BUS_URL: the Valkey or Redis that carries their events")
    if settings.bus_url and workers:
        # Its options are checked. A bus that is unreachable now does not prevent the start.
        with _refusing(bus_fault):
            connect(settings.bus_url.get_secret_value()).connection_pool.make_connection()  # type: ignore[no-untyped-call]  # the library is not typed here
    started = {}
    with ExitStack() as stack:
        if settings.database_url is None:
            folder = settings.data_dir.resolve() / "postgres"
            url = None if workers else running_postgres(folder)
            if not url and not may_start:
                raise Refusal(f"CHAT_DATABASE_URL is not set, and no server runs on {folder.parent}: start `make run`")
            with _progress("Starting PostgreSQL …"):
                started["database_url"] = SecretStr(url or stack.enter_context(embedded_postgres(folder)))
        elif is_checked:
            with _refusing(database_fault):
                with_database(partial(find_fault, "database", settings))
        if needs_bus:
            started["bus_url"] = SecretStr(stack.enter_context(embedded_valkey()))
        yield use_settings(settings.model_copy(update=started))


def with_database(use: Callable[[Database], Awaitable[Result]]) -> Result:
    """Call a function with the database of the settings, and close the database."""

    async def call() -> Result:
        database = Database(get_settings().asyncpg_url, patience=OPERATOR_SECONDS)
        try:
            return await use(database)
        finally:
            await database.close()

    return run(call())


def prepare_tables() -> None:
    """In development upgrade the tables. In production raise Refusal if migrations are missing."""
    if get_settings().is_development:
        upgrade()
    elif not with_database(migrations.is_current):
        raise Refusal("The database lacks migrations. Run `python -m chat_app migrate` first")


def upgrade() -> None:
    """Upgrade the tables to the newest revision."""
    with _progress("Upgrading the tables …"):
        migrations.upgrade()


def add_demo_data() -> None:
    """Write the demo data, unless they exist."""
    with _progress("Writing demo data …"):
        with_database(seed)


@contextmanager
def _refusing(explain: Callable[[Exception], str]) -> Iterator[None]:
    """Any error becomes a Refusal with its explanation."""
    try:
        yield
    except Exception as error:
        raise Refusal(explain(error)) from None


@contextmanager
def _progress(text: str) -> Iterator[None]:
    """Show a spinner in a terminal, without log lines, which would break it. Elsewhere the log is enough."""
    if not console.is_terminal:
        yield
        return
    logging.disable(logging.INFO)
    try:
        with console.status(text):
            yield
    finally:
        logging.disable(logging.NOTSET)
