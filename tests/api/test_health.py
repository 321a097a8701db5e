"""Health: whether the process lives, and whether it is ready for requests."""

import asyncio
import signal
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from pydantic import SecretStr
from sqlalchemy import text

from chat_app import migrations
from chat_app.api import health
from chat_app.cli import serving
from chat_app.database import Database
from chat_app.settings import Settings
from tests.clients import DEADLINE, Answer, http_answer
from tests.conftest import free_port
from tests.service import Service


@pytest.fixture
def ending_reset() -> Iterator[None]:
    """Reset the flag of the signal: in tests the process goes on."""
    yield
    health.ending.clear()


def service_on(settings: Settings, database_url: str) -> Service:
    """A node on another database."""
    changed = {"database_url": SecretStr(database_url), "port": free_port()}
    return Service(settings.model_copy(update=changed))


async def get_health(service: Service, path: str = "/readyz") -> Answer:
    async with httpx.AsyncClient(base_url=service.base, timeout=DEADLINE) as client:
        response = await client.get(path)
    assert response.is_success or int(response.headers["retry-after"]) >= 1
    return http_answer(response)


async def test_a_healthy_node_is_ready(service: Service) -> None:
    assert await get_health(service) == Answer(200, {"status": "ok", "bus": None}, None)


async def test_a_node_without_a_database_lives_but_is_not_ready(service_settings: Settings) -> None:
    async with service_on(service_settings, "postgresql://nobody@127.0.0.1:9/nothing") as alone:
        assert await get_health(alone) == Answer(503, None, "unavailable")
        assert (await get_health(alone, "/healthz")).ok


async def test_a_node_without_migrations_is_not_ready(service_settings: Settings, empty_url: str) -> None:
    async with service_on(service_settings, empty_url) as early:
        assert await get_health(early) == Answer(503, None, "unavailable")
        await asyncio.to_thread(migrations.upgrade, empty_url)
        assert (await get_health(early)).ok


async def test_a_node_with_a_blocked_database_is_not_ready(service_settings: Settings, database: Database) -> None:
    async with Service(service_settings.model_copy(update={"port": free_port()}), patience=None) as node:
        async with database.engine.begin() as connection:
            await connection.execute(text("LOCK TABLE alembic_version"))
            assert await get_health(node) == Answer(503, None, "unavailable")
        assert (await get_health(node)).ok


@pytest.mark.usefixtures("ending_reset")
async def test_a_node_is_not_ready_after_sigterm(service: Service) -> None:
    ended = serving._Server(uvicorn.Config(service.app), lambda: None)
    ended.handle_exit(signal.SIGTERM, None)
    assert ended.should_exit
    assert await get_health(service) == Answer(503, None, "unavailable")
    assert (await get_health(service, "/healthz")).ok
