"""Three nodes on one database and one bus, a real Valkey that can be killed and frozen, and a wire that can be cut."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import SecretStr

from chat_app.embedded import valkey_command, wait_for_valkey
from chat_app.settings import Settings
from tests.clients import Person, until
from tests.conftest import free_port
from tests.service import MakeUser, Service, making_people

MakePersonAt = Callable[..., Awaitable[Person]]


class Valkey:
    """A real server, which comes back at the same address."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bus.sock"

    def start(self) -> None:
        command = valkey_command("--port", "0", "--unixsocket", str(self.path), "--logfile", "/dev/null")
        self.process = subprocess.Popen(command, cwd=self.path.parent)
        wait_for_valkey(self.path)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


class Wire:
    """What one node reaches the bus through."""

    def __init__(self, folder: Path, valkey: Valkey, name: str) -> None:
        self.path = folder / f"wire-{name}.sock"
        self.valkey = valkey
        self.is_cut = False
        self.ends: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self.server = await asyncio.start_unix_server(self._join, self.path)

    async def stop(self) -> None:
        self.cut()
        self.server.close()
        await self.server.wait_closed()

    def cut(self) -> None:
        self.is_cut = True
        for end in self.ends:
            end.close()

    def heal(self) -> None:
        self.is_cut = False

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.close()
            return
        try:
            bus_reader, bus_writer = await asyncio.open_unix_connection(self.valkey.path)
        except OSError:
            writer.close()
            return
        ends = {writer, bus_writer}
        self.ends |= ends
        await asyncio.gather(_carry(reader, bus_writer), _carry(bus_reader, writer))
        self.ends -= ends


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


class Node(NamedTuple):
    service: Service
    wire: Wire

    @property
    def is_whole(self) -> bool:
        """Whether it hears the bus and both others."""
        bus = self.service.api.state.cluster.bus
        return bus.is_up and sum(not node.is_silent for node in bus._nodes.values()) >= 2


@pytest.fixture(scope="session")
def valkey(data_dir: Path) -> Iterator[Valkey]:
    server = Valkey(data_dir)
    server.start()
    yield server
    server.thaw()
    server.kill()


@pytest.fixture(scope="session")
async def running_nodes(service_settings: Settings, data_dir: Path, valkey: Valkey) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        nodes = []
        for name in "abc":
            wire = Wire(data_dir, valkey, name)
            await wire.start()
            stack.push_async_callback(wire.stop)
            changes = {"port": free_port(), "bus_url": SecretStr(f"unix://{wire.path}")}
            nodes.append(Node(Service(service_settings.model_copy(update=changes)), wire))
        await asyncio.gather(*(stack.enter_async_context(node.service) for node in nodes))
        yield nodes


@pytest.fixture
async def nodes(running_nodes: list[Node], valkey: Valkey) -> AsyncIterator[list[Node]]:
    """Nodes that hear each other, and are left so."""
    await until(lambda: all(node.is_whole for node in running_nodes))
    yield running_nodes
    valkey.thaw()
    if valkey.process.poll() is not None:
        valkey.start()
    for node in running_nodes:
        node.wire.heal()


@pytest.fixture
async def person_at(nodes: list[Node], make_user: MakeUser) -> AsyncIterator[MakePersonAt]:
    """`await person_at(1, "Anna")`: a connected user of the second node; `again=anna`: one more session of hers."""
    async with AsyncExitStack() as stack:
        makers = [await stack.enter_async_context(making_people(node.service, make_user)) for node in nodes]

        async def make(place: int, name: str = "Somebody", *, again: Person | None = None) -> Person:
            return await makers[place](name, connected=True, again=again)

        yield make
