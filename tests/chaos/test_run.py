"""The run itself: it leaves nothing out, breaks what it names, follows its seed, and ends what it started."""

import asyncio
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import islice

import psutil
import pytest

from chat_app.live.commands import COMMANDS
from tests.chaos.faults import FAULTS
from tests.chaos.planted import PLANTED
from tests.chaos.proxy import Network
from tests.chaos.run import Plan
from tests.chaos.stage import needed
from tests.chaos.test_checker import PLANTED as KINDS
from tests.chaos.wire import Http
from tests.chaos.world import PARTS
from tests.clients import until
from tests.operations import ROUTES
from tests.process import ROOT

# They only read, although they are no GET.
READING = {"list_likes", "lookup_user", "lookup_users"}


def test_every_operation_that_changes_something_has_its_part() -> None:
    commands = {name for name, command in COMMANDS.items() if not command.reads}
    routes = {name for name, route in ROUTES.items() if route.method != "get"}
    assert (commands | routes) - READING <= PARTS.keys()
    assert PARTS.keys() <= COMMANDS.keys() | ROUTES.keys(), "no part for what is not there any more"


def test_a_seed_decides_what_happens() -> None:
    def planned(seed: int) -> list[object]:
        plan = Plan(seed)
        choices = [list(islice(plan.choices(client), 50)) for client in range(plan.clients)]
        return [list(islice(plan.schedule(), 100)), choices]

    assert planned(7) == planned(7)
    assert planned(7) != planned(8)


def test_each_fault_comes_once_before_one_comes_again() -> None:
    plan = Plan(3)
    names = [name for _, name, _ in islice(plan.schedule(), 2 * len(plan.faults))]
    assert set(names[: len(plan.faults)]) == set(names[len(plan.faults) :]) == set(plan.faults)


def test_each_part_is_played_by_some_client_at_the_beginning() -> None:
    plan = Plan(5, clients=10)
    played = [choice.name for client in range(10) for choice in islice(plan.choices(client), 18)]
    assert set(played) == set(PARTS)


def test_a_fault_that_the_machine_cannot_make_is_not_left_out_in_silence() -> None:
    with pytest.raises(SystemExit, match="apt-get install some-package"):
        needed("/usr/lib/nobody/has/this", "some-package")


def run_chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.chaos", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_an_unknown_fault_is_refused() -> None:
    refused = run_chaos("--faults", "node-kill,earthquake")
    assert refused.returncode == 2 and "unknown: earthquake" in refused.stderr


def test_the_service_has_no_switch_for_planted_faults() -> None:
    found = {
        path.name: line
        for path in (ROOT / "chat_app").rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\b(planted|chaos|from tests|import tests)\b", line, re.IGNORECASE)
    }
    assert not found


def test_what_is_planted_is_made_visible_and_has_a_name() -> None:
    assert len(PLANTED) >= 10
    for planted in PLANTED.values():
        assert set(planted.faults) <= FAULTS.keys() and set(planted.kinds) <= set(KINDS.values())


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_still_fits_the_service(name: str, empty_url: str) -> None:
    code = f"from tests.chaos.planted import PLANTED; PLANTED[{name!r}].plant()"
    url = empty_url.replace("postgresql+asyncpg", "postgresql")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"CHAT_DATABASE_URL": url}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


class Echo:
    """A server behind a link, and a client before it."""

    def __init__(self, network: Network, port: int) -> None:
        self.network, self.port = network, port
        self.got = b""

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()
        await self.reading

    async def _read(self) -> None:
        with suppress(OSError):
            while data := await self.reader.read(1000):
                self.got += data


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with Network() as network:
        made = Echo(network, await network.link("link", server.sockets[0].getsockname()[1]))
        await made.connect()
        yield made
        await made.close()
    server.close()
    await server.wait_closed()


async def test_a_link_carries_both_ways(echo: Echo) -> None:
    echo.writer.write(b"hello")
    await until(lambda: echo.got == b"hello")


async def test_a_link_that_is_cut_resets_connections_old_and_new(echo: Echo) -> None:
    await echo.network.set("link", "cut")
    await until(echo.reading.done)
    await echo.close()
    again = Echo(echo.network, echo.port)
    await again.connect()
    await until(again.reading.done)
    await again.close()
    await echo.network.set("link", "open")
    await echo.connect()
    echo.writer.write(b"back")
    await until(lambda: echo.got == b"back")


async def test_a_link_that_is_frozen_keeps_all_and_loses_nothing(echo: Echo) -> None:
    await echo.network.set("link", "frozen")
    for _ in range(5):
        echo.writer.write(b"x" * 1000)
    late = Echo(echo.network, echo.port)
    await late.connect()
    late.writer.write(b"late")
    # A change of the state is answered after whatever came before it.
    await echo.network.set("link", "frozen")
    assert (echo.got, late.got) == (b"", b"")
    await echo.network.set("link", "open")
    await until(lambda: len(echo.got) == 5000 and late.got == b"late")
    await late.close()


async def test_a_link_with_a_delay_keeps_the_order(echo: Echo) -> None:
    await echo.network.set("link", "open", 0.05)
    began = asyncio.get_running_loop().time()
    for number in range(10):
        echo.writer.write(b"%d" % number)
        await asyncio.sleep(0.005)
    await until(lambda: echo.got == b"0123456789")
    assert asyncio.get_running_loop().time() - began >= 0.1, "there and back"


async def test_a_request_after_the_server_ended_an_idle_connection_opens_another() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    http = Http(server.sockets[0].getsockname()[1])
    for _ in range(2):
        assert await http.request("GET", "/") == (204, b"")
        await until(lambda: http._reader and http._reader.at_eof())
    http.close()
    server.close()
    await server.wait_closed()


@pytest.mark.timeout(300)
async def test_an_interrupted_run_leaves_no_process_behind() -> None:
    command = (sys.executable, "-m", "tests.chaos", "--clients", "8", "--nodes", "2", "--faults", "delay")
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started = psutil.Process(process.pid)
    names = ("postgres", "valkey", "chat_app", "chaos.proxy")

    def running() -> list[psutil.Process]:
        found = started.children(recursive=True)
        words: list[str] = []
        for child in found:
            with suppress(psutil.Error):
                words += child.cmdline()
        return found if all(name in " ".join(words) for name in names) else []

    await until(running, 120)
    left = running()
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    interrupted = re.search(r"Interrupted; the history so far is in (\S+)\n", errors.decode())
    assert process.returncode and interrupted, errors.decode()
    await until(lambda: not any(_lives(child) for child in left))
    shutil.rmtree(interrupted[1])


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
