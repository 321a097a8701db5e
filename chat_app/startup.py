"""What has to be there before a command can do its work: a database, the tables in it, in development demo data.

What reads the settings when it is imported is imported inside the functions, when the settings are known to be good.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from pydantic import SecretStr
from rich.console import Console

from chat_app.addresses import bus_fault, database_fault
from chat_app.background import run
from chat_app.embedded import embedded_postgres, embedded_valkey
from chat_app.settings import Settings, use_settings

if TYPE_CHECKING:
    from chat_app.database import Database

Result = TypeVar("Result")

# stdout is for what a command prints.
console = Console(stderr=True)


class Refusal(Exception):
    """What was asked can't be done here; the text says why and what to do."""


@contextmanager
def database(settings: Settings, *, is_checked: bool = True) -> Iterator[Settings]:
    """The settings with a database: the one that they name, else one that is started here. Raises Refusal."""
    if settings.database_url:
        if is_checked:
            _check_database(settings)
        yield settings
        return
    if not settings.is_development:
        raise Refusal("CHAT_DATABASE_URL is required in production")
    with ExitStack() as stack:
        with _progress("Starting PostgreSQL …"):
            url = stack.enter_context(embedded_postgres(settings.data_dir / "postgres"))
        yield use_settings(settings.model_copy(update={"database_url": SecretStr(url)}))


@contextmanager
def servers(settings: Settings, *, with_bus: bool) -> Iterator[Settings]:
    """As database, and with a bus if several processes need one."""
    if with_bus and settings.bus_url is None and not settings.is_development:
        raise Refusal(
            "Several workers in production need CHAT_BUS_URL: a Valkey or Redis over which they tell each other"
        )
    if settings.bus_url:
        _check_bus(settings.bus_url.get_secret_value())
    with database(settings) as settings, ExitStack() as stack:
        if with_bus and settings.bus_url is None:
            url = stack.enter_context(embedded_valkey())
            settings = use_settings(settings.model_copy(update={"bus_url": SecretStr(url)}))
        yield settings


def upgrade() -> None:
    """Bring the tables of the settings' database to the newest revision."""
    from chat_app import migrations

    with _progress("Bringing the tables up to date …"):
        migrations.upgrade()


def check_is_current(settings: Settings) -> None:
    """Refuse a database that lacks migrations."""
    from chat_app.migrations import is_current

    if not with_database(settings, is_current):
        raise Refusal("The database lacks migrations: run `python -m chat_app migrate` first")


def add_demo_data(settings: Settings) -> None:
    """Write the demo data, unless they are there."""
    from chat_app.seed import seed

    with _progress("Writing demo data …"):
        with_database(settings, seed)


def with_database(settings: Settings, use: "Callable[[Database], Awaitable[Result]]") -> Result:
    """Call something with the database of the settings, and close it."""
    from chat_app.database import OPERATOR_SECONDS, Database

    async def call() -> Result:
        opened = Database(settings.asyncpg_url, patience=OPERATOR_SECONDS)
        try:
            return await use(opened)
        finally:
            await opened.close()

    return run(call())


def _check_database(settings: Settings) -> None:
    async def connect(database: "Database") -> None:
        async with database.engine.connect():
            pass

    try:
        with_database(settings, connect)
    except Exception as error:
        raise Refusal(database_fault(error)) from None


def _check_bus(url: str) -> None:
    """Whether it can be understood: a bus that can't be reached is no reason not to start."""
    from chat_app.live.bus import connect

    try:
        connect(url).connection_pool.make_connection()  # type: ignore[no-untyped-call]  # the library is not typed here
    except Exception as error:
        raise Refusal(bus_fault(error)) from None


@contextmanager
def _progress(text: str) -> Iterator[None]:
    """In a terminal a spinner, which log lines would tear; elsewhere the log says enough."""
    if not console.is_terminal:
        yield
        return
    logging.disable(logging.INFO)
    try:
        with console.status(text):
            yield
    finally:
        logging.disable(logging.NOTSET)
