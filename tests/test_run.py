"""`python -m chat_app run` in a process of its own, with its own PostgreSQL."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from chat_app.cli.seed import DEMO_PASSWORD, DEMO_USERS

Start = Callable[..., Awaitable[Process]]

# Each start takes 4 s of a core, and longer on a busy one.
pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parent.parent
START_SECONDS = 60
END_SECONDS = 15


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="chat-run-") as name:
        yield Path(name)


@pytest.fixture
async def start(folder: Path) -> AsyncIterator[Start]:
    """`await start(port)`: a new process with its data in the folder of this test."""
    processes: list[Process] = []

    async def begin(port: int, *options: str) -> Process:
        process = await begin_command(folder, "run", "--port", str(port), *options)
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    for server in servers_in(folder):
        server.kill()


async def test_run_serves_until_sigterm_and_leaves_no_process(start: Start, folder: Path) -> None:
    port = free_port()
    process = await start(port)
    printed = await read_until_ready(process)

    assert f"http://127.0.0.1:{port}/docs/" in printed
    assert all(user["phone"] in printed and user["name"] in printed for user in DEMO_USERS)
    assert DEMO_PASSWORD in printed
    assert await log_in(port) == 200
    assert servers_in(folder), "it has to have a server of its own for this test to mean anything"

    process.terminate()
    assert await asyncio.wait_for(process.wait(), END_SECONDS) == 0
    assert servers_in(folder) == []


async def test_one_process_at_a_time_uses_the_data_and_the_next_one_starts_after_a_kill(
    start: Start, folder: Path
) -> None:
    first = await start(free_port())
    await read_until_ready(first)

    second = await start(free_port())
    _, complaint = await asyncio.wait_for(second.communicate(), START_SECONDS)
    assert second.returncode == 1
    assert complaint.decode().startswith("Another process is using")
    assert first.returncode is None

    first.kill()
    await first.wait()
    servers_in(folder)[0].kill()
    port = free_port()
    third = await start(port, "--no-seed")
    await read_until_ready(third)
    assert await log_in(port) == 200, "the demo users are still there"

    third.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(third.wait(), END_SECONDS) == 0
    assert servers_in(folder) == []


async def test_a_taken_port_is_refused_in_one_line_and_nothing_is_started(start: Start, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await start(port)
        _, complaint = await asyncio.wait_for(process.communicate(), START_SECONDS)

    assert process.returncode == 1
    assert complaint.decode().startswith(f"Can't listen on 127.0.0.1, port {port}: Address already in use.")
    assert complaint.count(b"\n") == 1
    assert files_in(folder) == []


async def test_commands_use_the_database_of_the_running_server(start: Start, folder: Path) -> None:
    port = free_port()
    process = await start(port)
    await read_until_ready(process)
    assert await log_in(port) == 200
    assert await command(folder, "revoke-sessions", DEMO_USERS[0]["phone"]) == (0, "Sessions ended: 1\n", "")
    assert await command(folder, "migrate") == (0, "The tables are up to date.\n", "")
    status, checked, _ = await command(folder, "check")
    assert (status, checked.split()[2:4]) == (0, ["database", "ok"])

    process.kill()
    await process.wait()
    for server in servers_in(folder):
        server.kill()
    assert (folder / "data/postgres/postmaster.pid").exists(), "it has to be left for this test to mean anything"
    place = (folder / "data").resolve()
    refusal = f"CHAT_DATABASE_URL is not set, and no server runs on {place}: start `make run`\n"
    for words in (["check"], ["verify"], ["sweep"], ["revoke-sessions", DEMO_USERS[0]["phone"]]):
        assert await command(folder, *words) == (1, "", refusal)
    assert servers_in(folder) == []


async def begin_command(folder: Path, *words: str) -> Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
    environment |= {"CHAT_DATA_DIR": str(folder / "data"), "CHAT_LOG_LEVEL": "ERROR", "CHAT_LOG_FORMAT": "console"}
    program = (sys.executable, "-m", "chat_app", *words)
    return await asyncio.create_subprocess_exec(*program, cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE)


async def command(folder: Path, *words: str) -> tuple[int | None, str, str]:
    """Run a command. Returns its status, stdout and stderr."""
    process = await begin_command(folder, *words)
    printed, errors = await asyncio.wait_for(process.communicate(), START_SECONDS)
    return process.returncode, printed.decode(), errors.decode()


async def read_until_ready(process: Process) -> str:
    """Read stdout until the process is ready."""
    assert process.stdout and process.stderr
    lines: list[str] = []
    async with asyncio.timeout(START_SECONDS):
        while not lines or not lines[-1].startswith("Ready"):
            lines.append((await process.stdout.readline()).decode())
            assert lines[-1], (await process.stderr.read()).decode()
    return "".join(lines)


async def log_in(port: int) -> int:
    form = {"username": DEMO_USERS[0]["phone"], "password": DEMO_PASSWORD}
    async with httpx.AsyncClient() as client:
        return (await client.post(f"http://127.0.0.1:{port}/api/v1/auth/login", data=form)).status_code


def servers_in(folder: Path) -> list[psutil.Process]:
    """The PostgreSQL processes that work in a folder, the oldest first."""
    processes = psutil.process_iter(["name", "cwd"])
    return [
        process
        for process in processes
        if process.info["name"] == "postgres" and (process.info["cwd"] or "").startswith(str(folder))
    ]


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
