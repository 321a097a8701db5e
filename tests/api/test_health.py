"""What those who look after the process ask it: whether it lives, and whether it may be sent people."""

import asyncio
import signal
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from pydantic import SecretStr
from sqlalchemy import text

from chat_app import migrations, server
from chat_app.api import health
from chat_app.database import Database
from chat_app.settings import Settings
from tests.clients import DEADLINE, Answer, http_answer
from tests.conftest import free_port
from tests.service import Service


@pytest.fixture
def not_ending() -> Iterator[None]:
    """In tests the process goes on."""
    yield
    health.ending.clear()


def service_on(settings: Settings, database_url: str) -> Service:
    """A node with another database."""
    changed = {"database_url": SecretStr(database_url), "port": free_port()}
    return Service(settings.model_copy(update=changed))


async def ask(service: Service, path: str = "/readyz") -> Answer:
    async with httpx.AsyncClient(base_url=service.base, timeout=DEADLINE) as client:
        response = await client.get(path)
    assert response.is_success or int(response.headers["retry-after"]) >= 1
    return http_answer(response)


async def test_a_node_with_all_that_it_needs_is_ready(service: Service) -> None:
    assert await ask(service) == Answer(200, {"status": "ok", "bus": None}, None)


async def test_without_a_database_it_lives_but_is_not_ready(service_settings: Settings) -> None:
    async with service_on(service_settings, "postgresql://nobody@127.0.0.1:9/nothing") as alone:
        assert await ask(alone) == Answer(503, None, "unavailable")
        assert (await ask(alone, "/healthz")).ok


async def test_before_the_migrations_it_is_not_ready(service_settings: Settings, empty_url: str) -> None:
    async with service_on(service_settings, empty_url) as early:
        assert await ask(early) == Answer(503, None, "unavailable")
        await asyncio.to_thread(migrations.upgrade, empty_url)
        assert (await ask(early)).ok


async def test_while_the_database_is_stuck_it_is_not_ready(service: Service, database: Database) -> None:
    async with database.engine.begin() as connection:
        await connection.execute(text("LOCK TABLE alembic_version"))
        assert await ask(service) == Answer(503, None, "unavailable")
    assert (await ask(service)).ok


@pytest.mark.usefixtures("not_ending")
async def test_from_the_signal_on_that_ends_it_it_is_not_ready(service: Service) -> None:
    ended = server._Server(uvicorn.Config(service.app), lambda: None, health.ending.set)
    ended.handle_exit(signal.SIGTERM, None)
    assert ended.should_exit
    assert await ask(service) == Answer(503, None, "unavailable")
    assert (await ask(service, "/healthz")).ok
