"""Requests of a run: a burst is on its way at once, and what is recorded of it is what was sent."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from chat_app.live.engine.frames import frame
from tests.chaos.acts import send_message
from tests.chaos.calls import Person
from tests.chaos.clients import Client
from tests.chaos.history import Recorder, read
from tests.chaos.nodes import Node
from tests.chaos.wire import HTTP_CONNECTIONS, Socket
from tests.chaos.world import Turn, World
from tests.client_model import Entry
from tests.clients import DEADLINE, until

BURST = 20
OPENING = (
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    frame(b'0{"sid":"s"}'),
    frame(b'40{"sid":"s"}'),
)


class Server:
    """Takes sends over both transports, and answers when it is let."""

    port: int

    def __init__(self) -> None:
        self.taken = 0
        self.may_answer = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b"Upgrade" in head:
                    writer.write(b"".join(OPENING))
                    await self._serve_socket(reader, writer)
                length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
                body = orjson.dumps(await self._take(await reader.readexactly(length)))
                writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    async def _serve_socket(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = []
        while True:
            length = (await reader.readexactly(2))[1] & 0x7F
            if length == 126:
                length = int.from_bytes(await reader.readexactly(2), "big")
            packet = (await reader.readexactly(4 + length))[4:]
            if packet.startswith(b"42"):
                answers.append(asyncio.create_task(self._answer(packet, writer)))

    async def _answer(self, packet: bytes, writer: asyncio.StreamWriter) -> None:
        number, _, command = packet[2:].partition(b"[")
        message = await self._take(orjson.dumps(orjson.loads(b"[" + command)[1]))
        writer.write(frame(b"43%b%b" % (number, orjson.dumps([{"status": 201, "data": message}]))))

    async def _take(self, body: bytes) -> dict[str, Any]:
        self.taken += 1
        seq = self.taken
        await self.may_answer.wait()
        absent = dict.fromkeys(("deleted_at", "location", "contact", "system", "attachment", "reply_to"))
        placed = {"chat_id": "chat", "seq": seq, "version": seq, "sender_id": "me", "like_count": 0}
        return absent | orjson.loads(body) | placed


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()
    await listening.wait_closed()


@pytest.fixture
async def sender(server: Server, tmp_path: Path) -> AsyncIterator[Client]:
    """Of a person with one chat, who sends in bursts."""
    node = Node("a", tmp_path, ())
    node.entrance = server.port
    client = Client("c0", Person("me", "", []), [node], Recorder(tmp_path / "history.jsonl"), Random(1))
    client.model.entries["chat"] = Entry({"id": "chat"})
    yield client
    await client.close()
    client.recorder.close()


def burst(client: Client, *, by_socket: bool) -> Coroutine[Any, Any, None]:
    world = World([client.person], client.nodes)
    world.burst = BURST
    return send_message(Turn(world, client, Random(1), by_socket))


def kinds(client: Client) -> list[str]:
    client.recorder.flush()
    return [record["k"] for record in read(client.recorder.path)]


async def test_a_burst_goes_over_one_connection_without_waiting_for_acks(server: Server, sender: Client) -> None:
    socket = Socket(lambda name, data: None, lambda why: None)
    await socket.connect(server.port, {})
    sender.socket, sender.conn = socket, "c0.1"
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(burst(sender, by_socket=True))
        await until(lambda: server.taken == BURST)
        assert kinds(sender) == ["invoke"] * BURST
        server.may_answer.set()
    assert kinds(sender) == ["invoke"] * BURST + ["return"] * BURST


async def test_over_http_a_few_are_on_their_way_and_only_those_are_recorded(server: Server, sender: Client) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(burst(sender, by_socket=False))
        await until(lambda: server.taken == HTTP_CONNECTIONS)
        assert kinds(sender) == ["invoke"] * HTTP_CONNECTIONS
        server.may_answer.set()
    assert server.taken == BURST and sorted(kinds(sender)) == ["invoke"] * BURST + ["return"] * BURST


async def test_an_answer_that_is_no_json_is_recorded_with_its_status(sender: Client) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 6\r\n\r\nOh, no")
        writer.close()

    broken = await asyncio.start_server(answer, "127.0.0.1", 0)
    node = Node("b", sender.node.folder, ())
    node.entrance = broken.sockets[0].getsockname()[1]
    client = Client("c1", sender.person, [node], sender.recorder, Random(1))
    assert (await client.over_http("get_me", {})).status == 500
    sender.recorder.flush()
    assert [record.get("status") for record in read(sender.recorder.path)] == [None, 500]
    await client.close()
    broken.close()
    await broken.wait_closed()


async def test_a_connect_that_is_given_up_raises_nothing_in_the_loop() -> None:
    accepted, ended = asyncio.Event(), asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        ended.set()

    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    socket = Socket(lambda name, data: None, lambda why: None)
    connecting = asyncio.create_task(socket.connect(listening.sockets[0].getsockname()[1], {}))
    await asyncio.wait_for(accepted.wait(), DEADLINE)
    connecting.cancel()
    await asyncio.wait_for(ended.wait(), DEADLINE)
    listening.close()
    await listening.wait_closed()
    assert not errors
