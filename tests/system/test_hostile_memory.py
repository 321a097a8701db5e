"""P22: what a hostile connection costs a node in memory while it lasts, and that it does not last."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from itertools import count
from urllib.parse import urlsplit

import psutil
import pytest

from chat_app.api import body_limit, http_protocol
from chat_app.live.engine import fast_socket, frames, sockets
from chat_app.live.engine.frames import MOST_PACKET_BYTES
from chat_app.settings import Settings
from tests.clients import Person
from tests.process import Process
from tests.raw import RawStream, frame
from tests.service import MakePerson

pytestmark = pytest.mark.timeout(300)

CONNECTIONS, MOST_BYTES = 10, 4 * 2**20
CUT_SECONDS = 30
PING, FRAGMENT, BEGINNING = 0x89, 0x00, 0x01
HTTP_HEAD = b"GET / HTTP/1.1\r\nHost: chat\r\n"
BODY_HEAD = (
    b"POST /api/v1/auth/register HTTP/1.1\r\nHost: chat\r\nContent-Type: application/json\r\n"
    b"Content-Length: 900000\r\n\r\n"
)

# What is sent first and what again and again, by whether the connection has logged in.
KINDS = {
    "pings": (True, b"", frame(b"", PING) * 4000),
    "empty fragments": (True, frame(b"", BEGINNING), frame(b"", FRAGMENT) * 4000),
    "one-byte fragments": (True, frame(b"4", BEGINNING), frame(b"2", FRAGMENT) * 4000),
    "large fragments": (True, frame(b"4", BEGINNING), frame(b"2" * 1000, FRAGMENT) * 50),
    "waiting packets": (True, b"", frame(b'420["list_chats",{"cursor":"%b"}]' % (b"x" * (MOST_PACKET_BYTES - 100)))),
    "small commands": (True, b"", frame(b'420["list_chats",{"limit":1}]') * 1000),
    "endless head": (False, HTTP_HEAD, b"x-header: value\r\n" * 200),
    "endless body": (False, BODY_HEAD, b"x" * 4096),
    "slow body": (False, BODY_HEAD, b"x"),
    "nothing after a head": (False, HTTP_HEAD, b""),
}
# Every one of these is answered, so they may go on for long: tests/live/test_floods.py has what ends them.
LEGITIMATE, TIMES = {"waiting packets", "small commands"}, 60


@pytest.fixture(scope="module")
async def node(service_settings: Settings) -> AsyncIterator[Process]:
    """One whose memory no other test changes."""
    running = Process(service_settings)
    running.environment["CHAT_LOG_LEVEL"] = "ERROR"
    await running.start()
    yield running
    await running.stop()


async def open_connection(node: Process, person: Person, kind: str) -> RawStream:
    if KINDS[kind][0]:
        return await RawStream.connected(node.base, person.token)
    address = urlsplit(node.base)
    return RawStream(*await asyncio.open_connection(address.hostname, address.port))


async def attack(stream: RawStream, kind: str) -> None:
    """Send until the server ends the connection, or what is legitimate for a while."""
    _, once, again = KINDS[kind]

    async def send() -> None:
        stream.writer.write(once)
        for number in count():
            if kind in LEGITIMATE and number == TIMES:
                break
            stream.writer.write(again)
            await stream.writer.drain()
            await asyncio.sleep(0.05)

    async def read() -> None:
        while await stream.reader.read(65536):
            pass

    tasks = {asyncio.create_task(send()), asyncio.create_task(read())}
    # Writing may fail before the end is read.
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, OSError | asyncio.CancelledError) for result in results), results
    stream.writer.transport.abort()
    with suppress(OSError):
        await stream.writer.wait_closed()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hostile_connection_costs_at_most_4_mib_and_ends(
    kind: str, node: Process, make_person: MakePerson, at: Callable[[str, Person], Person]
) -> None:
    people = [at(node.base, await make_person(f"Person {number}")) for number in range(CONNECTIONS)]
    server = psutil.Process(node.process.pid)
    # What the first of a kind loads or allocates once is no cost of a connection.
    async with asyncio.timeout(4 * CUT_SECONDS):
        await attack(await open_connection(node, people[0], kind), kind)
    streams = [await open_connection(node, person, kind) for person in people]
    before = most = server.memory_info().rss
    attacks = [asyncio.create_task(attack(stream, kind)) for stream in streams]
    async with asyncio.timeout(4 * CUT_SECONDS):
        while not all(task.done() for task in attacks):
            most = max(most, server.memory_info().rss)
            await asyncio.wait(attacks, timeout=0.05, return_when=asyncio.ALL_COMPLETED)
    await asyncio.gather(*attacks)
    each = (most - before) / CONNECTIONS
    assert each <= MOST_BYTES, f"{each / 2**20:.1f} MiB"
    print(f"{kind}: {each / 2**20:.2f} MiB")  # noqa: T201  # -rP shows the figures


def test_the_timers_cut_within_30_seconds() -> None:
    """The test above waits for as long as a busy machine takes; these are what the service itself waits for."""
    seconds = {
        "a head": http_protocol.HEAD_SECONDS,
        "a body": body_limit.PATIENCE_SECONDS,
        "no login": sockets.LOGIN_SECONDS,
        "reading nothing": fast_socket.STALLED_SECONDS,
        "no pause": fast_socket.FULL_SECONDS,
        "too many bytes": frames.MOST_FLOOD_SECONDS,
    }
    assert {name: value for name, value in seconds.items() if value >= CUT_SECONDS} == {}
