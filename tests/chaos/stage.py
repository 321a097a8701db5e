"""All that runs during a run: the servers, the network between them, and whatever disturbs them may take hold of."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from tests.chaos import nodes
from tests.chaos.clients import Client
from tests.chaos.history import Recorder
from tests.chaos.nodes import Node, Postgres, Valkey
from tests.chaos.proxy import Network
from tests.chaos.world import World

SERVICE = (sys.executable, "-m", "chat_app")
RECOVERY_SECONDS = 5.0
# A machine that is busy with other things may add to it.
RECOVERY_SLACK_SECONDS = 10.0


@dataclass
class Stage:
    """The servers of a run; `world` and `clients` once there are some."""

    folder: Path
    recorder: Recorder
    network: Network
    postgres: Postgres
    valkey: Valkey
    nodes: list[Node]
    world: World = field(init=False)
    clients: list[Client] = field(default_factory=list)
    recoveries: dict[str, list[float]] = field(default_factory=dict)

    async def start(self) -> None:
        await asyncio.gather(self.postgres.start(), self.valkey.start())
        for node in self.nodes:
            node.on_end = self._note_end
        status, output = await nodes.command(self.nodes[0].environment, "migrate")
        assert status == 0, output
        await asyncio.gather(*(node.start() for node in self.nodes))

    def _note_end(self, text: str) -> None:
        self.recorder.write("note", violation="end", promise="P24", text=text)

    async def recover(self, fault: str) -> None:
        """Wait until every node sends messages again; too late is against the promise."""
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(self._answers(node) for node in self.nodes))
        seconds = asyncio.get_running_loop().time() - began
        self.recoveries.setdefault(fault, []).append(seconds)
        if seconds > RECOVERY_SECONDS + RECOVERY_SLACK_SECONDS:
            text = f"after {fault} it took {seconds:.1f} s until every node sent messages again"
            self.recorder.write("note", violation="recovery", promise="P23", text=text)

    async def _answers(self, node: Node) -> None:
        client = self.clients[0]
        while True:
            if (await client.over_http("update_me", {"bio": "here"}, node=node)).status in (200, 401, 404):
                return
            await asyncio.sleep(0.1)


@asynccontextmanager
async def stage(
    folder: Path, recorder: Recorder, names: Sequence[str], launcher: Sequence[str] = SERVICE
) -> AsyncIterator[Stage]:
    """Everything started, and ended with the run."""
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(Network())
        codes: dict[str, str] = {}
        gateway = await asyncio.start_server(_gateway(codes), "127.0.0.1", 0)
        stack.callback(gateway.close)
        postgres, valkey = Postgres(folder), Valkey()
        settings = nodes.settings(folder, gateway.sockets[0].getsockname()[1])
        running = [Node(name, folder, launcher) for name in names]
        for node in running:
            await node.prepare(network, postgres, valkey, settings)
        made = Stage(folder, recorder, network, postgres, valkey, running)
        stack.push_async_callback(_end, made)
        await made.start()
        made.world = World([], running)
        made.world.codes = codes
        yield made


async def _end(made: Stage) -> None:
    for node in made.nodes:
        if hasattr(node, "process"):
            await node.kill()
    if hasattr(made.valkey, "process"):
        made.valkey.kill()
    made.postgres.freeze(is_frozen=False)
    await made.postgres.stop()


def _gateway(codes: dict[str, str]) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """The HTTP gateway that carries codes to phones."""

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            sent = orjson.loads(await reader.readexactly(length))
            codes[sent["phone"]] = sent["code"]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return receive


def needed(pattern: str, package: str) -> str:
    """A file of the system. Raises SystemExit where it is missing: what was asked for is not left out in silence."""
    found = sorted(Path("/").glob(pattern.removeprefix("/")))
    if not found:
        raise SystemExit(f"{pattern} is needed for this fault: apt-get install {package}")
    return str(found[0])
