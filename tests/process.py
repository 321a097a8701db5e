"""The service as a process of its own, as in operation. Tests read its whole log and can kill it."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from chat_app.settings import Settings
from tests import planted
from tests.clients import DEADLINE, Person
from tests.conftest import free_port

Line = dict[str, Any]

ROOT = Path(__file__).parent.parent
# Many times longer than a start takes, for a busy machine.
START_SECONDS = 40


# Runs the command line with other timeouts of the database.
PATIENT = """
import runpy
from chat_app import database
database.PATIENCE_SECONDS = {}
runpy.run_module({!r}, run_name="__main__", alter_sys=True)
"""


class Process:
    """One node on the database of the tests. `lines` has its log from its start on. `options` are those of `run`.

    `patience`: seconds that its transactions may wait, instead of the default.
    """

    def __init__(self, settings: Settings, *, patience: float | None = None) -> None:
        module, *name = planted.launcher
        program = ("-c", PATIENT.format(patience, module)) if patience else ("-m", module)
        self.program = (*program, *name)
        self.options: tuple[str, ...] = ()
        port = free_port()
        self.base = f"http://127.0.0.1:{port}"
        assert settings.database_url
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")} | {
            "CHAT_DATABASE_URL": settings.database_url.get_secret_value(),
            "CHAT_DATA_DIR": str(settings.data_dir),
            "CHAT_PORT": str(port),
            "CHAT_LOG_FORMAT": "json",
            "CHAT_LOG_LEVEL": "DEBUG",
            "CHAT_RATE_LIMITS": "off",
        }
        self.written: list[str] = []
        self.arrived = asyncio.Event()

    async def start(self) -> None:
        """Start the process, or start it again."""
        command = (sys.executable, *self.program, "run", "--no-seed", *self.options)
        self.process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=self.environment, stdout=PIPE, stderr=PIPE
        )
        self.reading = asyncio.create_task(self._read())
        assert self.process.stdout
        async with asyncio.timeout(START_SECONDS):
            while not (line := await self.process.stdout.readline()).startswith(b"Ready"):
                assert line, "\n".join(self.written)

    async def kill(self) -> None:
        """Kill the process."""
        if self.process.returncode is None:
            self.process.kill()
        await self.reading
        await self.process.communicate()

    async def stop(self) -> None:
        """End the process by SIGTERM."""
        if self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), START_SECONDS)
        await self.kill()

    def lines(self, **values: Any) -> list[Line]:
        """The log lines so far that have these values."""
        parsed = [json.loads(line) for line in self.written if line.startswith("{")]
        return [line for line in parsed if values.items() <= line.items()]

    async def wait_for(self, **values: Any) -> Line:
        """Return the first log line with these values, which may have been written before."""
        async with asyncio.timeout(DEADLINE):
            while not (found := self.lines(**values)):
                self.arrived.clear()
                await self.arrived.wait()
        return found[0]

    async def _read(self) -> None:
        assert self.process.stderr
        while line := await self.process.stderr.readline():
            self.written.append(line.decode().rstrip())
            self.arrived.set()


@pytest.fixture(scope="session")
async def process(service_settings: Settings) -> AsyncIterator[Process]:
    """A node that every test may use and none may end."""
    running = Process(service_settings)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def at() -> AsyncIterator[Callable[[str, Person], Person]]:
    """`at(base, anna)`: Anna on another node, with the same session."""
    people: list[Person] = []

    def move(base: str, person: Person) -> Person:
        moved = Person(base, UUID(person.id), person.session_id, person.token, person.name)
        people.append(moved)
        return moved

    yield move
    for person in people:
        await person.close()
