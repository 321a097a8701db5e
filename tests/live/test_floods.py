"""P22: a connection that sends as much as it can is closed, costs little and does not delay others."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest

from chat_app.live.commands import COMMANDS, Command
from chat_app.live.engine import fast_socket, frames
from chat_app.live.engine.fast_socket import FastSocket
from chat_app.live.engine.frames import MOST_PACKET_BYTES
from chat_app.models.base import Input
from tests.clients import DEADLINE, Person, SocketTransport, until
from tests.process import Process
from tests.raw import PATH, RawSocket, RawStream, frame
from tests.service import MakePerson, Service

pytestmark = pytest.mark.one_node

MEGABYTE = 10**6
CLOSING_SECONDS = 30
PROTOCOL_ERROR, POLICY_VIOLATION, TOO_BIG = 1002, 1008, 1009
CONTINUATION, BEGINNING, PING, PONG, BINARY = 0x00, 0x01, 0x89, 0x8A, 0x82

# The bytes sent once, and those sent without end after them.
FLOODS = {
    "pings": (b"", frame(b"", PING)),
    "pongs": (b"", frame(b"", PONG)),
    "empty fragments": (frame(b"", BEGINNING), frame(b"", CONTINUATION)),
    "fragments of one byte": (frame(b"4", BEGINNING), frame(b"2", CONTINUATION)),
    "binary": (b"", frame(b"", BINARY)),
    "noops": (b"", frame(b"6")),
    "unreadable packets": (b"", frame(b"4x")),
    "unknown commands": (b"", frame(b'421["nonexistent",{}]')),
}
Opening = Callable[[Person], Awaitable[RawStream]]


async def open_only(person: Person) -> RawStream:
    return await RawStream.open(person.base)


async def log_in(person: Person) -> RawStream:
    return await RawStream.connected(person.base, person.token)


OPENINGS = {"before the login": open_only, "after the login": log_in}


@pytest.fixture(autouse=True)
def on_the_fast_path(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--fallback"):
        pytest.skip("The libraries don't bound what a connection sends: only the fast path does.")


@pytest.fixture(params=OPENINGS)
def opening(request: pytest.FixtureRequest) -> Opening:
    return OPENINGS[request.param]


@asynccontextmanager
async def flooding(stream: RawStream, kind: str) -> AsyncIterator[None]:
    """In this block send a megabyte a second until the server closes."""
    first, repeated = FLOODS[kind]
    part = repeated * (MEGABYTE // 50 // len(repeated))

    async def flood() -> None:
        stream.writer.write(first)
        with suppress(OSError):
            while True:
                stream.writer.write(part)
                await stream.writer.drain()
                await asyncio.sleep(0.02)

    task = asyncio.create_task(flood())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class TestFlood:
    @pytest.mark.parametrize("kind", FLOODS)
    async def test_a_flood_is_closed_with_a_policy_violation(self, kind: str, opening: Opening, anna: Person) -> None:
        async with await opening(anna) as stream, flooding(stream, kind), asyncio.timeout(CLOSING_SECONDS):
            assert await stream.close_code() == POLICY_VIOLATION

    async def test_a_flood_before_the_answer_to_the_upgrade_is_closed(self, anna: Person) -> None:
        async with await RawStream.open(anna.base, frame(b"", PING) * 40_000) as stream:
            async with asyncio.timeout(CLOSING_SECONDS):
                # The part that came with the request is lost, and the rest may begin within a frame.
                assert await stream.close_code() in (PROTOCOL_ERROR, POLICY_VIOLATION)

    @pytest.mark.parametrize("kind", ["pings", "empty fragments", "unknown commands"])
    async def test_a_flood_does_not_delay_others(
        self,
        kind: str,
        opening: Opening,
        process: Process,
        make_person: MakePerson,
        at: Callable[[str, Person], Person],
    ) -> None:
        anna, boris, clara = [at(process.base, await make_person(name)) for name in ("Anna", "Boris", "Clara")]
        for person in (anna, boris):
            await person.connect()
        chat = (await SocketTransport().open_private_chat(anna, boris))["id"]
        usual = await slowest_of(30, lambda: deliver(anna, boris, chat), lambda: get_health(anna))
        async with await opening(clara) as stream, flooding(stream, kind), asyncio.timeout(2 * CLOSING_SECONDS):
            flooded = await slowest_of(30, lambda: deliver(anna, boris, chat), lambda: get_health(anna))
        # A busy machine may be slow once. A flood that was not limited took more than ten seconds.
        assert flooded < 1 + 10 * usual, f"{flooded:.2f} s instead of {usual:.3f} s"


async def slowest_of(times: int, *works: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """Run each work `times` times, all works in parallel. Returns the seconds of the slowest run."""
    slowest = 0.0

    async def keep_doing(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        nonlocal slowest
        for _ in range(times):
            started = time.perf_counter()
            await work()
            slowest = max(slowest, time.perf_counter() - started)

    await asyncio.gather(*(keep_doing(work) for work in works))
    return slowest


async def get_health(person: Person) -> None:
    assert (await person.http.get("/healthz")).is_success


async def deliver(sender: Person, receiver: Person, chat_id: str) -> None:
    """Send a message and wait until it has arrived."""
    client_id = str(uuid4())
    content = {"chat_id": chat_id, "client_id": client_id, "type": "text", "text": client_id}
    await sender.socket.client.call("send_message", content, timeout=CLOSING_SECONDS)
    async with asyncio.timeout(CLOSING_SECONDS):
        while not any(client_id in str(payload) for payload in receiver.socket.named("chats_changed")):
            receiver.socket.arrived.clear()
            await receiver.socket.arrived.wait()
    receiver.socket.events.clear()


class TestLargePacket:
    async def test_a_packet_too_large_in_its_fragments_is_refused(self, opening: Opening, anna: Person) -> None:
        part = b"4" * (MOST_PACKET_BYTES // 4)
        async with await opening(anna) as stream, asyncio.timeout(DEADLINE):
            stream.writer.write(frame(part, BEGINNING) + frame(part, CONTINUATION) * 4)
            assert await stream.close_code() == TOO_BIG

    async def test_a_packet_in_many_fragments_is_read(self, anna: Person) -> None:
        async with await log_in(anna) as stream:
            packet = b'427["list_chats",{"cursor":"%b"}]' % (b"x" * (MOST_PACKET_BYTES - 100))
            parts = [packet[start : start + 1024] for start in range(0, len(packet), 1024)]
            stream.writer.write(
                frame(parts[0], BEGINNING) + b"".join(frame(part, CONTINUATION) for part in parts[1:-1])
            )
            stream.writer.write(frame(parts[-1], CONTINUATION | 0x80))
            assert await ack_of(stream, 7)

    async def test_a_packet_byte_by_byte_costs_the_same_for_each_byte(self, service: Service, anna: Person) -> None:
        raw = await RawSocket.connected(anna.base, anna.token)
        (protocol,) = [line.protocol for line in lines_of(service, anna)]

        def seconds_after(length: int) -> float:
            """The seconds for the last 5,000 bytes of a frame, one by one."""
            whole = frame(b"6" + b"x" * (length + 5000))
            protocol.data_received(whole[:-5000])
            started = time.process_time()
            for byte in whole[-5000:]:
                protocol.data_received(bytes((byte,)))
            return time.process_time() - started

        short, long = (min(seconds_after(length) for _ in range(5)) for length in (1, 250_000))
        assert long < 2.5 * short, f"{long:.3f} s after much instead of {short:.3f} s after nothing"
        await raw.close()


class TestLegitimateBurst:
    async def test_a_burst_of_600_messages_is_sent_in_order(self, anna: Person, boris: Person) -> None:
        chat = (await SocketTransport().open_private_chat(anna, boris))["id"]
        async with await log_in(anna) as stream:
            content = {"chat_id": chat, "type": "text", "text": "я" * 2000}
            for number in range(600):
                command = json.dumps(["send_message", content | {"client_id": str(uuid4())}])
                stream.writer.write(frame(f"42{number}{command}".encode()))
            for number in range(600):
                assert (await ack_of(stream, number))["data"]["seq"] == number + 1

    async def test_a_burst_of_unknown_commands_is_answered_in_order(self, anna: Person) -> None:
        async with await log_in(anna) as stream:
            stream.writer.write(b"".join(frame(b'42%d["nonexistent",{}]' % number) for number in range(600)))
            for number in range(600):
                assert (await ack_of(stream, number))["error"]["code"] == "unknown_command"


def lines_of(service: Service, person: Person) -> list[FastSocket]:
    """The server's side of a person's connections."""
    sockets = service.socket_server.eio.sockets
    return [sockets[connection.id].fast for connection in service.live.connections.of_user(UUID(person.id))]


async def ack_of(stream: RawStream, number: int) -> Any:
    """Return the next ack, which must have this number."""
    async with asyncio.timeout(4 * DEADLINE):
        while not (packet := (await stream.read())[1]).startswith(b"43"):
            pass
    start = b"43%d[" % number
    assert packet.startswith(start), packet[:50]
    return json.loads(packet[len(start) - 1 :])[0]


class Nothing(Input):
    text: str


@asynccontextmanager
async def waiting_command(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """A command `wait` that is ack_of when the event is set."""
    may_answer = asyncio.Event()

    async def wait(session: Any, connection: Any, data: Nothing) -> None:
        await may_answer.wait()

    monkeypatch.setitem(COMMANDS, "wait", Command("wait", wait, Nothing, reads=True))
    yield may_answer
    may_answer.set()


async def test_packets_behind_a_slow_command_are_limited_in_bytes(
    service: Service, anna: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with waiting_command(monkeypatch) as may_answer, await log_in(anna) as stream:
        (line,) = lines_of(service, anna)
        numbers = range(40)
        sending = asyncio.create_task(send_slowly(stream, numbers))
        await until(lambda: not line.protocol.transport.is_reading())
        assert 0 < sum(map(len, line._inbox or ())) <= 2**20
        may_answer.set()
        for number in numbers:
            assert (await ack_of(stream, number))["ok"]
        await sending


async def test_bytes_over_the_limit_of_a_second_are_read_in_the_next_but_not_for_long(
    anna: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "SECOND_BYTES", MEGABYTE)
    monkeypatch.setattr(frames, "FLOOD_BYTES", MEGABYTE)
    async with await log_in(anna) as stream:
        packet = b'["list_chats",{"cursor":"%b"}]' % (b"x" * 200_000)
        stream.writer.write(b"".join(frame(b"42%d%b" % (number, packet)) for number in range(10)))
        for number in range(10):
            assert (await ack_of(stream, number))["error"]["code"] == "invalid_input"
        monkeypatch.setattr(frames, "MOST_FLOOD_SECONDS", 2)
        stream.writer.write(frame(b"420" + packet) * 100)
        async with asyncio.timeout(CLOSING_SECONDS):
            assert await stream.close_code() == POLICY_VIOLATION


async def test_a_client_that_sends_much_in_every_second_is_cut_below_the_limit_of_a_second(
    anna: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "MOST_FLOOD_SECONDS", 2)
    async with await log_in(anna) as stream, asyncio.timeout(CLOSING_SECONDS):
        reading = asyncio.create_task(stream.close_code())
        for number in count():
            if reading.done():
                break
            # 2 MB/s, all of which is read: below the limit of a second.
            stream.writer.write(frame(b'42%d["list_chats",{"cursor":"%b"}]' % (number, b"x" * 200_000)))
            await asyncio.sleep(0.1)
        assert await reading == POLICY_VIOLATION


async def test_a_client_that_never_pauses_is_cut(
    service: Service, anna: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_socket, "FULL_SECONDS", 0.5)
    async with waiting_command(monkeypatch), await log_in(anna) as stream:
        stream.writer.write(frame(b'42["wait",{"text":""}]') * 200)
        async with asyncio.timeout(CLOSING_SECONDS):
            assert await stream.close_code() == POLICY_VIOLATION


async def test_a_client_that_sends_faster_than_it_is_answered_is_cut(
    anna: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_socket, "FULL_SECONDS", 3)
    # As on a busy machine, which reads fewer frames in a second than are allowed.
    monkeypatch.setattr(frames, "SECOND_FRAMES", MEGABYTE)
    async with await log_in(anna) as stream, flooding(stream, "unknown commands"), asyncio.timeout(CLOSING_SECONDS):
        assert await stream.close_code() == POLICY_VIOLATION


async def send_slowly(stream: RawStream, numbers: range) -> None:
    """Send packets of the largest size allowed."""
    for number in numbers:
        stream.writer.write(frame(b'42%d["wait",{"text":"%b"}]' % (number, b"x" * 256_000)))
        await stream.writer.drain()
        await asyncio.sleep(0.03)  # below the limit of a second


async def test_a_client_may_send_little_before_its_login(anna: Person) -> None:
    async with await RawStream.open(anna.base) as stream, asyncio.timeout(CLOSING_SECONDS):
        stream.writer.write(frame(b"", PING) * 2 * frames.FIRST_FRAMES)
        assert await stream.close_code() == POLICY_VIOLATION


async def test_a_login_before_the_upgrade_raises_the_limit(anna: Person) -> None:
    poll = "/socket.io/?EIO=4&transport=polling"
    sid = json.loads((await anna.http.get(poll)).text[1:])["sid"]
    assert (await anna.http.post(f"{poll}&sid={sid}", content=f'40{{"token":"{anna.token}"}}')).status_code == 200
    async with await RawStream.open(anna.base, path=f"{PATH}&sid={sid}") as stream, asyncio.timeout(CLOSING_SECONDS):
        stream.writer.write(frame(b"2probe") + frame(b"5"))
        stream.writer.write(frame(b"", PING) * 5 * frames.FIRST_FRAMES + frame(b'421["list_chats",{}]'))
        while not (await stream.read())[1].startswith(b"431["):
            pass
