"""What is measured: a freshly started server, ours or Node's, on a database of its own in one real PostgreSQL."""

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import psutil

from chat_app.embedded import embedded_postgres, embedded_valkey

ROOT = Path(__file__).parent.parent.parent
PEER = Path(__file__).parent / "peer"
START_SECONDS = 30
TICKS = os.sysconf("SC_CLK_TCK")
SECRET = secrets.token_hex(32)

Made = TypeVar("Made")


@dataclass
class Usage:
    """CPU seconds so far, those of the whole machine and of the generator too, and bytes of memory now."""

    server: float
    database: float
    memory: int
    machine: float
    generator: float

    def since(self, before: "Usage", seconds: float) -> dict[str, float]:
        """The cores that each took."""
        cores = {
            name: (getattr(self, name) - getattr(before, name)) / seconds
            for name in ("server", "database", "generator", "machine")
        }
        others = max(0.0, cores.pop("machine") - sum(cores.values()))
        return {f"{name}, cores": taken for name, taken in (cores | {"all else on the machine": others}).items()}


@dataclass
class Server:
    """A running server, and the PostgreSQL behind it."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    postmaster: int
    log: Path

    def usage(self) -> Usage:
        memory = psutil.Process(self.process.pid).memory_info().rss
        times = psutil.cpu_times()
        machine = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
        server, database = cpu_seconds(self.process.pid), cpu_seconds(self.postmaster)
        return Usage(server, database, memory, machine, time.process_time())

    def complaints(self) -> list[str]:
        """What its log tells of errors."""
        lines = self.log.read_text(errors="replace").splitlines()
        found = [line for line in lines if '"level": "error"' in line or '"level":"error"' in line or "Error:" in line]
        return [f"{self.name} logged: {line[:300]}" for line in found]


def cpu_seconds(pid: int) -> float:
    """Of a process, of its descendants, and of those that have ended."""
    total = _ticks(pid)
    for child in psutil.Process(pid).children(recursive=True):
        # One that has just ended is counted by its parent from now on.
        with suppress(FileNotFoundError, ProcessLookupError):
            total += _ticks(child.pid)
    return total / TICKS


def _ticks(pid: int) -> int:
    # utime, stime, cutime and cstime, counted behind the name, which may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


class House:
    """One PostgreSQL with its defaults, in which every server gets a fresh database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.postmaster = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
        self.number = 0
        self.made: dict[str, Any] = {}

    def once(self, name: str, make: "Callable[[House], Made]") -> Made:
        """What takes long to make and is only read."""
        if name not in self.made:
            self.made[name] = make(self)
        made: Made = self.made[name]
        return made

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """The URL of a new database, for one run."""
        url = self.make_database(template)
        yield url
        self._run(f"DROP DATABASE {url.rpartition('?')[0].rpartition('/')[2]} WITH (FORCE)")

    def make_database(self, template: str = "template1") -> str:
        """The URL of a new database."""
        self.number += 1
        self._run(f"CREATE DATABASE bench_{self.number} TEMPLATE {template}")
        return self.url.replace("/postgres?", f"/bench_{self.number}?")

    def make_template(self) -> None:
        """A database with our tables, migrated once; the others are copies of it."""
        self._run("CREATE DATABASE migrated")
        url = self.url.replace("/postgres?", "/migrated?")
        environment = _environment(CHAT_DATABASE_URL=url, CHAT_DATA_DIR=str(self.folder))
        subprocess.run(
            [sys.executable, "-m", "chat_app", "migrate"], cwd=ROOT, env=environment, check=True, capture_output=True
        )

    def _run(self, statement: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.url)
            await connection.execute(statement)
            await connection.close()

        asyncio.run(run())

    @contextmanager
    def ours(self, database: str, *, workers: int = 1) -> Iterator[Server]:
        """chat_app as in production, but for the limits; several workers are on a bus."""
        port, command = free_port(), [sys.executable, "-m", "chat_app", "run"]
        environment = _environment(
            CHAT_ENV="production",
            CHAT_SECRET=SECRET,
            CHAT_DATABASE_URL=database,
            CHAT_DATA_DIR=str(self.folder),
            CHAT_PORT=str(port),
            CHAT_RATE_LIMITS="load-test",
            CHAT_LOG_FORMAT="json",
        )
        with ExitStack() as stack:
            if workers > 1:
                command += ["--workers", str(workers)]
                environment["CHAT_BUS_URL"] = stack.enter_context(embedded_valkey())
            yield stack.enter_context(self._running("chat_app", command, environment, port))

    @contextmanager
    def node(self, database: str) -> Iterator[Server]:
        """The server that a team would write in an afternoon."""
        port, (_, _, address) = free_port(), database.partition("://")
        name, _, folder = address.partition("/")[2].partition("?host=")
        connection = {"PGHOST": folder, "PGUSER": "postgres", "PGDATABASE": name}
        environment = _environment(NODE_ENV="production", PORT=str(port), **connection)
        with self._running("node", ["node", str(PEER / "server.js")], environment, port) as server:
            yield server

    @contextmanager
    def orm(self, database: str) -> Iterator[Server]:
        """The reference for a page of history: rows of the ORM and a response model."""
        port = free_port()
        environment = _environment(CHAT_DATABASE_URL=database)
        command = [sys.executable, "-m", "uvicorn", "tests.bench.orm_app:app", "--port", str(port), "--no-access-log"]
        with self._running("orm", command, environment, port) as server:
            yield server

    @contextmanager
    def _running(self, name: str, command: list[str], environment: dict[str, str], port: int) -> Iterator[Server]:
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            _wait_for(port, process, log)
            yield Server(name, port, process, self.postmaster, log)
        finally:
            process.terminate()
            try:
                process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def house() -> Iterator[House]:
    """PostgreSQL with default durability, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="chat-bench-"))
    try:
        with embedded_postgres(folder / "postgres") as url:
            made = House(folder, url)
            made.make_template()
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def node_is_missing() -> str | None:
    """Install what Node's server needs, unless it is there; why it can't run here."""
    if not shutil.which("node"):
        return "Node is not measured: there is no node here."
    if _packages(PEER / "node_modules" / ".package-lock.json") == _packages(PEER / "package-lock.json"):
        return None
    if not shutil.which("npm"):
        return f"Node is not measured: its packages are not in {PEER / 'node_modules'}, and there is no npm here."
    done = subprocess.run(["npm", "ci", "--silent", "--prefix", str(PEER)], capture_output=True, text=True, check=False)
    return f"Node is not measured: npm ci failed: {done.stderr.strip()[-300:]}" if done.returncode else None


def _packages(lock: Path) -> dict[str, str]:
    """The versions of the packages; npm leaves such a file with what it has installed."""
    found = json.loads(lock.read_text())["packages"] if lock.exists() else {}
    return {path: package["version"] for path, package in found.items() if path}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _environment(**values: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")} | values


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text()}") from None
            time.sleep(0.05)
        else:
            return
