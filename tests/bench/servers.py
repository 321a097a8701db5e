"""Starts the measured servers, ours or Node's, each on a new database in one real PostgreSQL."""

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from chat_app.cli.embedded import embedded_valkey
from tests.bench import children
from tests.bench.usage import Usage, usage

ROOT = Path(__file__).parent.parent.parent
PEER = Path(__file__).parent / "peer"
START_SECONDS = 60
SECRET = secrets.token_hex(32)

Made = TypeVar("Made")


@dataclass
class Server:
    """A running server and its PostgreSQL."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    postmaster: int
    log: Path

    def usage(self) -> Usage:
        return usage(self.process.pid, self.postmaster)

    def complaints(self) -> list[str]:
        """The errors in its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        found = [line for line in lines if '"level": "error"' in line or '"level":"error"' in line or "Error:" in line]
        return [f"{self.name} logged: {line[:300]}" for line in found]


class Rig:
    """One PostgreSQL with its defaults, in which every server gets a new database.

    The servers run the code in `root`. A rig of another name has its own template in the same PostgreSQL.
    """

    def __init__(self, folder: Path, url: str, root: Path = ROOT, name: str = "here") -> None:
        self.folder = folder
        self.url = url
        self.root = root
        self.name = name
        self.postmaster = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
        self.number = 0
        self.made: dict[str, Any] = {}
        self._make_template()

    def once(self, name: str, make: "Callable[[Rig], Made]") -> Made:
        """Data that takes long to make and is only read, made once."""
        if name not in self.made:
            self.made[name] = make(self)
        made: Made = self.made[name]
        return made

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """The URL of a new database for one run: a copy of the template, or a database with our tables."""
        url = self.make_database(template)
        yield url
        self._run(f"DROP DATABASE {url.rpartition('?')[0].rpartition('/')[2]} WITH (FORCE)")

    def make_database(self, template: str | None = None) -> str:
        """The URL of a new database."""
        self.number += 1
        name = f"{self.name}_{self.number}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template or self.name}")
        return self.url.replace("/postgres?", f"/{name}?")

    def _make_template(self) -> None:
        """Make a database with our tables by the migrations in `root`. The others are copies of it."""
        self._run(f"CREATE DATABASE {self.name}")
        environment = self._settings(self.url.replace("/postgres?", f"/{self.name}?"), CHAT_LOG_FORMAT="console")
        command = [sys.executable, "-m", "chat_app", "migrate"]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the migrations of {self.name} failed:\n{done.stderr}")

    def _settings(self, database: str, **others: str) -> dict[str, str]:
        """The environment of every revision. It may have a setting by an older name too: unknown ones are ignored."""
        return _environment(CHAT_DATABASE_URL=database, CHAT_DATA_DIR=str(self.folder), **others)

    def _run(self, statement: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.url)
            await connection.execute(statement)
            await connection.close()

        asyncio.run(run())

    @contextmanager
    def ours(self, database: str, *, workers: int = 1) -> Iterator[Server]:
        """chat_app as in production, without rate limits. Several workers use a bus."""
        port, command = free_port(), [sys.executable, "-m", "chat_app", "run"]
        environment = self._settings(
            database,
            CHAT_ENV="production",
            CHAT_SECRET=SECRET,
            CHAT_PORT=str(port),
            CHAT_RATE_LIMITS="load-test",
            CHAT_LOG_FORMAT="json",
        )
        with ExitStack() as stack:
            if workers > 1:
                command += ["--workers", str(workers)]
                environment["CHAT_BUS_URL"] = stack.enter_context(embedded_valkey())
            yield stack.enter_context(self._running(f"chat_app-{self.name}", command, environment, port))

    @contextmanager
    def node(self, database: str) -> Iterator[Server]:
        """The server for Node that a team would write in an afternoon."""
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
            process = children.start(command, cwd=self.root, env=environment, stdout=output, stderr=output)
        try:
            _wait_for(name, port, process, log)
            yield Server(name, port, process, self.postmaster, log)
        finally:
            process.terminate()
            try:
                process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def rig() -> Iterator[Rig]:
    """PostgreSQL with default durability and a temporary folder, both held by a process that outlasts this one."""
    keeper = [sys.executable, "-m", "tests.bench.postgres"]
    pipe = subprocess.PIPE
    with subprocess.Popen(keeper, cwd=ROOT, stdin=pipe, stdout=pipe, start_new_session=True) as running:
        assert running.stdout
        if not (ready := running.stdout.readline()):
            raise RuntimeError("PostgreSQL did not start")
        folder, url = json.loads(ready)
        yield Rig(Path(folder), url)


def node_is_missing() -> str | None:
    """Install the packages of Node's server if they are missing. Returns why it can't run here."""
    if not shutil.which("node"):
        return "Node is not measured: there is no node here."
    if _packages(PEER / "node_modules" / ".package-lock.json") == _packages(PEER / "package-lock.json"):
        return None
    if not shutil.which("npm"):
        return f"Node is not measured: its packages are not in {PEER / 'node_modules'}, and there is no npm here."
    done = subprocess.run(["npm", "ci", "--silent", "--prefix", str(PEER)], capture_output=True, text=True, check=False)
    return f"Node is not measured: npm ci failed: {done.stderr.strip()[-300:]}" if done.returncode else None


def _packages(lock: Path) -> dict[str, str]:
    """The versions of the packages in a lock file, which npm also writes for installed packages."""
    found = json.loads(lock.read_text())["packages"] if lock.exists() else {}
    return {path: package["version"] for path, package in found.items() if path}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _environment(**values: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")} | values


def _wait_for(name: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{log.read_text()}") from None
            time.sleep(0.05)
        else:
            return
