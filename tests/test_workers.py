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
from prometheus_client.parser import text_string_to_metric_families

from chat_app.metrics import FOLDER
from chat_app.settings import Settings
from tests.clients import DEADLINE, Person, until
from tests.conftest import free_port
from tests.service import MakePerson
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


class Metrics:
    """The metrics at an address, as of the last scrape."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def scrape(self) -> None:
        async with httpx.AsyncClient(timeout=DEADLINE) as client:
            served = (await client.get(self.url)).raise_for_status().text
        families = text_string_to_metric_families(served)
        self.samples = [sample for family in families for sample in family.samples]

    def of(self, name: str, **labels: str) -> float:
        """The sum of a metric over the labels that are not given."""
        found = [each.value for each in self.samples if each.name == name and labels.items() <= each.labels.items()]
        return sum(found)

    @property
    def workers(self) -> set[str]:
        """The workers that have gauges."""
        return {each.labels["pid"] for each in self.samples if each.name == "process_resident_memory_bytes"}

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(START_SECONDS):
            while True:
                with suppress(httpx.TransportError):  # a worker that was killed with the connection
                    await self.scrape()
                    if condition():
                        return
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("has_port", [False, True])
async def test_metrics_are_those_of_all_workers_and_gauges_only_of_living_ones(
    has_port: bool, start: Start, make_person: MakePerson, at: Callable[[str, Person], Person]
) -> None:
    port, own_port = free_port(), free_port()
    parent = await start(port, **({"CHAT_METRICS_PORT": str(own_port)} if has_port else {}))
    await read_until_ready(parent)
    base = f"http://127.0.0.1:{port}"
    metrics = Metrics(f"http://127.0.0.1:{own_port if has_port else port}/metrics")
    folder = Path(workers_of(parent.pid)[0].environ()[FOLDER])

    person = at(base, await make_person())
    sockets = [await person.connect() for _ in range(6)]
    await ask_health(base, times=10)
    await metrics.until(lambda: metrics.of("chat_connections") == 6 and metrics.workers == {"0", "1"})
    assert metrics.of("http_requests_total", handler="/healthz") == 10
    assert metrics.of("chat_logins_total", by="connect", code="ok") == 6
    assert metrics.of("chat_build_info") == metrics.of("chat_bus_up") == 1
    assert metrics.of("chat_database_pool_size") == 2 * Settings().database_pool
    files = names_in(folder)

    busiest = max(workers_of(parent.pid), key=lambda worker: len(worker.net_connections()))
    busiest.kill()
    await until(lambda: not all(socket.client.connected for socket in sockets))
    await metrics.until(lambda: len(metrics.workers) == 1)
    await metrics.until(lambda: metrics.of("chat_connections") == sum(socket.client.connected for socket in sockets))
    assert metrics.of("http_requests_total", handler="/healthz") == 10, "what was counted stays"

    await metrics.until(lambda: metrics.workers == {"0", "1"})
    await wait_until_ready(port)
    await ask_health(base, times=10)
    await metrics.until(lambda: metrics.of("http_requests_total", handler="/healthz") == 20)
    assert names_in(folder) == files, "the new worker goes on with the files of the former"
    if has_port:
        for worker in workers_of(parent.pid):
            worker.kill()
        await metrics.until(lambda: not metrics.workers)
        assert metrics.of("http_requests_total", handler="/healthz") == 20

    parent.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(parent.wait(), END_SECONDS) == 0
    assert names_in(folder.parent).isdisjoint({folder.name})


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def ask_health(base: str, *, times: int) -> None:
    """Request `/healthz` on so many connections, which any worker accepts."""
    for _ in range(times):
        async with httpx.AsyncClient(base_url=base, timeout=DEADLINE) as client:
            assert (await client.get("/healthz")).is_success


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
