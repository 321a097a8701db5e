"""The processes of a run: nodes, one real PostgreSQL and one real Valkey, each behind links of the network."""

import asyncio
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from chat_app.cli.embedded import embedded_postgres, valkey_command
from tests.chaos.proxy import Network
from tests.process import ROOT, START_SECONDS

PARENT_DEATH = 1
# What the service promises for an end in order.
STOP_SECONDS = 10.0


def end_with_parent() -> None:
    """Whatever becomes of the run, its servers do not outlive it."""
    ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)


def fixed_port() -> int:
    """A free port that stays: below those that the system gives to outgoing connections."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


class Postgres:
    """A real server, as durable as in production, that can crash and come back with its data."""

    def __init__(self, folder: Path) -> None:
        # On a disk of its own where there is one.
        disk = folder / "postgres-disk"
        self.folder, self.port = (disk if disk.exists() else folder) / "postgres", fixed_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._running = ExitStack()

    async def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "max_connections": "120",
        }
        if self.folder.parent.is_mount():
            settings["max_wal_size"] = "160MB"
        await asyncio.to_thread(self._running.enter_context, embedded_postgres(self.folder, settings=settings))

    async def stop(self) -> None:
        """A fast shutdown."""
        await asyncio.to_thread(self._running.close)

    async def crash(self, number: signal.Signals) -> None:
        """SIGQUIT is an immediate shutdown; SIGKILL ends all processes at once."""
        for process in self.processes() if number == signal.SIGKILL else self.processes()[:1]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        await self.stop()

    def freeze(self, *, is_frozen: bool = True) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP if is_frozen else signal.SIGCONT)

    def processes(self) -> list[psutil.Process]:
        """The postmaster and its children."""
        try:
            server = psutil.Process(int((self.folder / "postmaster.pid").read_text().split()[0]))
            return [server, *server.children(recursive=True)]
        except (OSError, psutil.NoSuchProcess):
            return []

    async def connect(self) -> Any:
        """A connection of the run's own, past the network."""
        return await asyncpg.connect(self.url, timeout=10)


class Valkey:
    """A real bus, which comes back at the same port and remembers nothing."""

    def __init__(self) -> None:
        self.port = fixed_port()

    async def start(self) -> None:
        command = valkey_command("--port", str(self.port), "--bind", "127.0.0.1", "--logfile", "/dev/null")
        self.process = subprocess.Popen(command, cwd="/tmp", preexec_fn=end_with_parent)  # noqa: ASYNC220
        async with asyncio.timeout(START_SECONDS):
            while not await self.ask(b"PING"):  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self, *, is_frozen: bool = True) -> None:
        self.process.send_signal(signal.SIGSTOP if is_frozen else signal.SIGCONT)

    async def ask(self, command: bytes) -> bytes:
        """One inline command; nothing if it can't be reached."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return b""
        try:
            writer.write(command + b"\r\n")
            return await asyncio.wait_for(reader.readline(), 3)
        except (OSError, TimeoutError):
            return b""
        finally:
            writer.close()


class Node:
    """One process of the service, reached by clients, and reaching database and bus, over links of its own."""

    process: Process

    def __init__(self, name: str, folder: Path, launcher: Sequence[str]) -> None:
        self.name, self.folder, self.launcher = name, folder, launcher
        self.port = fixed_port()
        # Where clients reach it.
        self.entrance = 0
        self.environment: dict[str, str] = {}
        self.on_end: Callable[[str], None] = lambda text: None
        self._is_meant_to_run = False

    async def prepare(self, network: Network, postgres: Postgres, valkey: Valkey, settings: dict[str, str]) -> None:
        database = await network.link(f"{self.name}-db", postgres.port)
        bus = await network.link(f"{self.name}-bus", valkey.port)
        self.entrance = await network.link(f"{self.name}-clients", self.port)
        self.environment = without_settings() | {
            "CHAT_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{database}/postgres",
            "CHAT_BUS_URL": f"redis://127.0.0.1:{bus}",
            "CHAT_PORT": str(self.port),
            **settings,
        }

    async def start(self, **environment: str) -> None:
        """Return when it is ready."""
        command = [*self.launcher, "run", "--no-seed"]
        with (self.folder / f"node-{self.name}.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                env=self.environment | environment,
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=log,
                preexec_fn=end_with_parent,
            )
        async with asyncio.timeout(2 * START_SECONDS):
            while not await self._answers():
                log_file = f"{self.folder}/node-{self.name}.log"
                assert self.process.returncode is None, f"node {self.name} did not start: see {log_file}"
                await asyncio.sleep(0.05)
        self._is_meant_to_run = True
        self._watching = asyncio.create_task(self._watch(self.process))

    async def start_as(self, *launcher: str) -> None:
        """As start, once, by another launcher."""
        usual, self.launcher = self.launcher, launcher
        try:
            await self.start()
        finally:
            self.launcher = usual

    async def _answers(self) -> bool:
        """Whether it answers a request, which waits until it can."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
            answer = await reader.readline()
            writer.close()
        except OSError:
            return False
        return answer.startswith(b"HTTP/1.1 200")

    async def _watch(self, process: Process) -> None:
        await process.wait()
        if self._is_meant_to_run and process is self.process:
            self.on_end(f"node {self.name} ended by itself with {process.returncode}")

    async def kill(self) -> None:
        self._is_meant_to_run = False
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def end_by_itself(self, seconds: float) -> None:
        """Wait for an end that is wanted. Raises TimeoutError."""
        self._is_meant_to_run = False
        await asyncio.wait_for(self.process.wait(), seconds)

    async def stop(self) -> float:
        """SIGTERM; the seconds that it took. `on_end` gets what breaks the promise."""
        self._is_meant_to_run = False
        began = asyncio.get_running_loop().time()
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), 2 * STOP_SECONDS)
        except TimeoutError:
            await self.kill()
        seconds = asyncio.get_running_loop().time() - began
        if self.process.returncode or seconds > STOP_SECONDS:
            self.on_end(f"node {self.name} ended with {self.process.returncode} {seconds:.1f} s after SIGTERM")
        return seconds

    def freeze(self, *, is_frozen: bool = True) -> None:
        self.process.send_signal(signal.SIGSTOP if is_frozen else signal.SIGCONT)


def without_settings() -> dict[str, str]:
    """The environment of this process, but nothing that the service reads."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}


def settings(folder: Path, sms_port: int) -> dict[str, str]:
    """As in production, but for the limits."""
    (folder / "data").mkdir(exist_ok=True)
    return {
        "CHAT_ENV": "production",
        "CHAT_SECRET": secrets.token_hex(32),
        "CHAT_DATA_DIR": str(folder / "data"),
        "CHAT_MEDIA_URL": (folder / "media").as_uri(),
        "CHAT_RATE_LIMITS": "load-test",
        "CHAT_LOG_FORMAT": "json",
        "CHAT_LOG_LEVEL": "WARNING",
        "CHAT_SMS_URL": f"http://127.0.0.1:{sms_port}/",
    }


async def command(environment: dict[str, str], *words: str) -> tuple[int, str]:
    """One command of the service's command line: its status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chat_app", *words), cwd=ROOT, env=environment, stdout=PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()
