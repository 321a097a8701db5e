"""Three nodes on one database and one bus: a real Valkey that can be killed and frozen, over wires that can be cut."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from chat_app.background import end_tasks
from chat_app.cli.embedded import valkey_command, wait_for_valkey
from chat_app.events import Recorded
from chat_app.live.bus import CHANNEL, HEARTBEAT_SECONDS
from chat_app.live.bus_messages import encode
from chat_app.live.cluster import Cluster
from chat_app.settings import Settings
from tests.clients import Person, until
from tests.conftest import free_port
from tests.service import MakeUser, Service, making_people

Json = dict[str, Any]
MakePersonAt = Callable[..., Awaitable[Person]]


class Valkey:
    """A real Valkey server, which always starts at the same address."""

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
    """The connection of one node to the bus."""

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
    def cluster(self) -> Cluster:
        return self.service.cluster

    @property
    def is_whole(self) -> bool:
        """Whether it receives from the bus and both other nodes."""
        bus = self.cluster.bus
        return bus.is_up and sum(not node.is_silent for node in bus._nodes.values()) >= 2

    def has_received_all_of(self, other: "Node") -> bool:
        """Whether it has received everything from the other node, and no resync is about to follow."""
        known = self.cluster.bus._nodes.get(other.cluster.bus.node)
        return known is not None and known.number >= other.cluster.bus._number and not self.cluster._resync


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
    """Nodes that receive from each other. Faults of the test are repaired after it."""
    pairs = list(permutations(running_nodes, 2))
    await until(lambda: all(one.is_whole and one.has_received_all_of(other) for one, other in pairs))
    yield running_nodes
    valkey.thaw()
    if valkey.process.poll() is not None:
        valkey.start()
    for node in running_nodes:
        node.wire.heal()


@pytest.fixture
async def person_at(nodes: list[Node], make_user: MakeUser) -> AsyncIterator[MakePersonAt]:
    """`await person_at(1, "Anna")`: a connected user of the second node. `again=anna` opens another session."""
    async with AsyncExitStack() as stack:
        makers = [await stack.enter_async_context(making_people(node.service, make_user)) for node in nodes]

        async def make(place: int, name: str = "Somebody", *, again: Person | None = None) -> Person:
            return await makers[place](name, connected=True, again=again)

        yield make


def events_in(packet: bytes) -> list[Json]:
    """The events of a packet, as `OtherNode.publish` takes them."""
    head, *bodies = map(json.loads, packet.split(b"\n"))
    return [{**header, "body": body} for header, body in zip(head["events"], bodies, strict=True)]


class OtherNode:
    """A node without a service: it publishes events of a test, with its own numbers, and heartbeats."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.id = str(uuid4())
        self.number = 0

    async def publish(self, *events: Json, **fields: Any) -> None:
        """Events with their headers, and with what clients get of them in `body`."""
        since, self.number = self.number, self.number + bool(events)
        headers = [{name: value for name, value in event.items() if name != "body"} for event in events]
        message = {"node": self.id, "number": self.number, "since": since, "events": headers, **fields}
        lines = [json.dumps(part) for part in (message, *(event.get("body") for event in events))]
        await self.client.publish(CHANNEL, "\n".join(lines))

    async def publish_recorded(self, events: list[Recorded]) -> None:
        """Publish events that a transaction recorded."""
        await self.publish(*events_in(encode(uuid4(), 1, 0, events)))

    async def publish_garbage(self) -> None:
        """Publish a packet that no node can read. It takes a number."""
        self.number += 1
        await self.client.publish(CHANNEL, f'{{"node":"{self.id}","number":')

    async def beat(self) -> None:
        while True:
            await self.publish()
            await asyncio.sleep(HEARTBEAT_SECONDS / 2)


@pytest.fixture
async def other_node(nodes: list[Node], valkey: Valkey) -> AsyncIterator[OtherNode]:
    async with Redis(unix_socket_path=str(valkey.path)) as client:
        node = OtherNode(client)
        beating = asyncio.create_task(node.beat())
        yield node
        await end_tasks([beating])
        await node.publish(is_leaving=True)
