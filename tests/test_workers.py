"""`run --workers`: several real processes on one port, with an embedded bus."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from chat_app.settings import Settings
from tests.clients import until
from tests.conftest import free_port
from tests.test_run import END_SECONDS, START_SECONDS, read_until_ready

Start = Callable[..., Awaitable[Process]]

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def start(service_settings: Settings) -> AsyncIterator[Start]:
    """`await start(port, CHAT_ENV=…)`: two workers on the database of the tests."""
    assert service_settings.database_url
    started: list[Process] = []

    async def begin(port: int, **environment: str) -> Process:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
        kept |= {"CHAT_DATABASE_URL": service_settings.database_url.get_secret_value()}
        kept |= {"CHAT_DATA_DIR": str(service_settings.data_dir)}
        kept |= {"CHAT_LOG_LEVEL": "ERROR", "CHAT_LOG_FORMAT": "console"}
        command = [sys.executable, "-m", "chat_app", "run", "--no-seed", "--workers", "2", "--port", str(port)]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=kept | environment, stdout=PIPE, stderr=PIPE
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_workers_share_the_port_are_replaced_and_end_together(start: Start) -> None:
    port = free_port()
    parent = await start(port)
    await read_until_ready(parent)
    first = workers_of(parent.pid)
    assert len(first) == 2
    await wait_until_ready(port)

    first[0].kill()
    await until(lambda: len(workers_of(parent.pid)) == 2 and first[0] not in workers_of(parent.pid))
    first[1].kill()
    await until(lambda: first[1] not in workers_of(parent.pid))
    await wait_until_ready(port)

    family = psutil.Process(parent.pid).children(recursive=True)
    parent.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(parent.wait(), END_SECONDS) == 0
    await until(lambda: not any(map(psutil.Process.is_running, family)))


async def test_workers_end_when_their_parent_is_killed(start: Start) -> None:
    parent = await start(free_port())
    await read_until_ready(parent)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert any(process.name() == "valkey-server" for process in family) and len(family) >= 4
    parent.kill()
    await until(lambda: not any(map(psutil.Process.is_running, family)))


async def test_production_refuses_several_workers_without_a_bus(start: Start) -> None:
    secret = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
    process = await start(free_port(), CHAT_ENV="production", CHAT_SECRET=secret)
    _, complaint = await asyncio.wait_for(process.communicate(), START_SECONDS)
    assert process.returncode == 1
    assert complaint.decode().startswith("Several workers in production need CHAT_BUS_URL")


async def test_a_worker_that_cannot_start_ends_all(start: Start) -> None:
    process = await start(free_port(), CHAT_MEDIA_URL="nowhere://files")
    printed, complaint = await asyncio.wait_for(process.communicate(), START_SECONDS)
    assert (process.returncode, printed) == (1, b"")
    assert complaint.decode().endswith("A worker ended before it was ready. The log says why.\n")


async def test_a_closed_terminal_ends_them(start: Start) -> None:
    parent = await start(free_port())
    await read_until_ready(parent)
    family = psutil.Process(parent.pid).children(recursive=True)
    parent.send_signal(signal.SIGHUP)
    assert await asyncio.wait_for(parent.wait(), END_SECONDS) == 0
    await until(lambda: not any(map(psutil.Process.is_running, family)))


def workers_of(pid: int) -> list[psutil.Process]:
    """The current workers of this process."""
    found = []
    for process in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):
            if "--multiprocessing-fork" in process.cmdline():
                found.append(process)
    return found


async def wait_until_ready(port: int) -> None:
    """Wait until a worker answers and its bus is up."""
    transport = httpx.AsyncHTTPTransport(retries=5)
    # A worker that starts takes the connection only then.
    async with httpx.AsyncClient(transport=transport, timeout=START_SECONDS) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/readyz")
        assert answer.json() == {"status": "ok", "bus": "up"}
