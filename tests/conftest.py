"""Fixtures for all tests: one real PostgreSQL, and factories of users and chats.

No test empties a table. Each makes its own users, so tests don't affect each other.
"""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from anyio._backends._asyncio import _root_task
from hypothesis import settings as hypothesis_settings
from pydantic import SecretStr
from sqlalchemy import make_url, text

from chat_app import migrations
from chat_app.cli.embedded import embedded_postgres
from chat_app.database import Database
from chat_app.models import User
from chat_app.settings import Settings, use_settings
from tests import planted
from tests.factories import Factory, UserFactory

pytest_plugins = ["tests.service", "tests.process", "tests.stores"]

# For --hypothesis-profile.
hypothesis_settings.register_profile("long", max_examples=2000, print_blob=True)

# The data of a test run is deleted, so it need not reach the disk.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--three-nodes", action="store_true", help="Each user is on another node than the one before.")
    parser.addoption("--fallback", action="store_true", help="WebSockets are served by the libraries alone.")
    parser.addoption("--postgres", help="The address of a server to use instead of an embedded one.")
    parser.addoption("--planted", choices=planted.PLANTED, help="A fault of the service: a test of it must fail.")
    parser.addoption("--valkey", help="The same, for --three-nodes. Only one test process may use it.")


def pytest_configure(config: pytest.Config) -> None:
    if name := config.getoption("--planted"):
        planted.plant(name)


@pytest.fixture(scope="session", autouse=True)
async def root_task() -> AsyncIterator[None]:
    """anyio ends its worker processes with the task that runs the loop. Here each test is such a task on one loop."""
    root = asyncio.create_task(asyncio.Event().wait())
    _root_task.set(root)
    yield
    root.cancel()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--three-nodes"):
        items[:] = [item for item in items if item.get_closest_marker("one_node") is None]


@pytest.fixture(scope="session")
def data_dir() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="chat-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def _database_of(server: str) -> Iterator[str]:
    """The URL of a new database on a running server, which the processes of a test run share."""
    name = f"tests_{uuid4().hex}"

    async def do(statement: str) -> None:
        connection = await asyncpg.connect(server)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(do(f"CREATE DATABASE {name}"))
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    asyncio.run(do(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def postgres_url(data_dir: Path, pytestconfig: pytest.Config) -> Iterator[str]:
    """A real server with the newest schema."""
    given = pytestconfig.getoption("--postgres")
    with _database_of(given) if given else embedded_postgres(data_dir / "postgres", settings=FAST) as url:
        migrations.upgrade(url.replace("postgresql://", "postgresql+asyncpg://"))
        yield url


@pytest.fixture(scope="session")
def service_settings(postgres_url: str, data_dir: Path) -> Settings:
    """The settings of this run, for the service under test and for get_settings()."""
    settings = Settings(rate_limits="off", database_url=SecretStr(postgres_url), data_dir=data_dir, port=free_port())
    use_settings(settings)
    return settings


@pytest.fixture(scope="session")
async def database(service_settings: Settings) -> AsyncIterator[Database]:
    """A Database object beside the running service's. Its commits reach no connection."""
    # A test may hold a lock for any time.
    opened = Database(service_settings.asyncpg_url, patience=600)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def make(database: Database) -> Callable[..., Awaitable[Any]]:
    """`await make(ChatFactory, title="Trip")`: written directly to the database, in a transaction of its own."""

    async def make_one(kind: type[Factory], **values: object) -> Any:
        async with database.transaction() as db:
            return await kind.make(db, **values)

    return make_one


@pytest.fixture(scope="session")
async def make_user(make: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[User]]:
    """`await make_user(name="Anna")`: a user without a password."""
    return partial(make, UserFactory)


@asynccontextmanager
async def new_database(database: Database, template: str = "template1") -> AsyncIterator[str]:
    """The URL of a new database on the server of the tests, empty or a copy of `template`."""
    name = f"new_{uuid4().hex}"
    server = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    async with server.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield database.engine.url.set(database=name).render_as_string(hide_password=False)
    async with server.connect() as connection:
        await connection.execute(text(f"DROP DATABASE {name}"))


@pytest.fixture
async def empty_url(database: Database) -> AsyncIterator[str]:
    async with new_database(database) as url:
        yield url
