"""The logs of two nodes show why a user misses a message."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from chat_app.events import MessagesChanged, record, recorded
from chat_app.settings import Settings
from tests.clients import Person, SocketTransport
from tests.cluster.conftest import OtherNode, Valkey
from tests.cluster.test_order import Transaction
from tests.diagnosis import Cause, diagnose
from tests.process import Process
from tests.service import MakePerson

SOCKET = SocketTransport()
Json = dict[str, Any]
At = Callable[[str, Person], Person]


@pytest.fixture(scope="module")
def bus() -> Iterator[Valkey]:
    """A bus of its own: a test ends it."""
    with tempfile.TemporaryDirectory(prefix="chat-", dir="/tmp") as folder:
        valkey = Valkey(Path(folder))
        valkey.start()
        yield valkey
        valkey.kill()


@pytest.fixture
async def processes(service_settings: Settings, bus: Valkey) -> AsyncIterator[list[Process]]:
    """The node of the sender and that of the receiver."""
    if bus.process.poll() is not None:
        bus.start()
    started = [Process(service_settings) for _ in range(2)]
    for process in started:
        process.environment["CHAT_BUS_URL"] = f"unix://{bus.path}"
    await asyncio.gather(*(process.start() for process in started))
    yield started
    for process in started:
        await process.stop()


class Story:
    """Anna writes to Boris, who has the chat open at the other node."""

    def __init__(self, processes: list[Process], anna: Person, boris: Person) -> None:
        self.processes, self.anna, self.boris = processes, anna, boris

    async def begin(self) -> None:
        self.chat_id: str = (await SOCKET.open_private_chat(self.anna, self.boris))["id"]
        await self.anna.open(self.chat_id)
        await self.boris.open(self.chat_id)
        self.first = await self.send()
        await self.wait_for_delivery(self.first, connections=1)

    async def send(self) -> Json:
        sent = {"type": "text", "text": "secret", "client_id": str(uuid4()), "chat_id": self.chat_id}
        ack = await self.anna.socket.client.call("send_message", sent)
        return {**ack["data"], "request_id": ack["request_id"]}

    async def wait_for_delivery(self, message: Json, **values: Any) -> Json:
        """Wait until the receiver's node has the message, and return its line."""
        line = await self.processes[1].wait_for(event="delivered", requests=[message["request_id"]], **values)
        assert line["node"] == (await self.processes[0].wait_for(event="started"))["node"]
        assert -1000 < line["delay_ms"] < 60_000
        return line

    async def find_cause(self, message: Json, folder: Path) -> Cause:
        """The cause, by both names of the message, from the files of the logs alone."""
        await self.processes[0].wait_for(event="answered", request_id=message["request_id"])
        files = []
        for number, process in enumerate(self.processes):
            files.append(folder / f"node-{number}.log")
            files[-1].write_text("\n".join(process.written))
            assert "secret" not in files[-1].read_text()
        found = diagnose(*files, chat=self.chat_id, seq=message["seq"])
        assert found == diagnose(*files, request_id=message["request_id"])
        assert found.keys() == {self.boris.id}
        return found[self.boris.id]


@pytest.fixture
async def story(processes: list[Process], make_person: MakePerson, at: At) -> Story:
    people = [at(process.base, await make_person()) for process in processes]
    story = Story(processes, *people)
    await story.begin()
    return story


async def test_the_receiver_was_offline(story: Story, tmp_path: Path) -> None:
    await story.boris.socket.close()
    await story.processes[1].wait_for(event="disconnected", user=story.boris.id)
    message = await story.send()
    await story.wait_for_delivery(message, connections=0)
    assert await story.find_cause(message, tmp_path) is Cause.OFFLINE


async def test_another_node_delivered_it(story: Story, tmp_path: Path) -> None:
    message = await story.send()
    await story.wait_for_delivery(message, connections=1)
    published = await story.processes[0].wait_for(event="published", requests=[message["request_id"]])
    assert published["number"] > 0
    assert await story.find_cause(message, tmp_path) is Cause.ELSEWHERE


async def test_the_node_of_the_sender_delivered_it(story: Story, at: At, tmp_path: Path) -> None:
    await story.boris.socket.close()
    await story.processes[1].wait_for(event="disconnected", user=story.boris.id)
    await at(story.processes[0].base, story.boris).connect(active_chat_id=story.chat_id)
    message = await story.send()
    await story.wait_for_delivery(message, connections=0)
    assert await story.find_cause(message, tmp_path) is Cause.HERE


async def test_a_newer_change_was_delivered_before_it(story: Story, bus: Valkey, tmp_path: Path) -> None:
    version = story.first["version"] + 10
    newer = {"since": version - 1, "version": version, "message_count": version}
    transaction = Transaction()
    both = {UUID(person.id): 0 for person in (story.anna, story.boris)}
    record(transaction, MessagesChanged(chat_id=UUID(story.chat_id), **newer), both)
    async with Redis(unix_socket_path=str(bus.path)) as client:
        other = OtherNode(client)
        await other.publish_recorded(recorded(transaction))
        for process in story.processes:
            # It waits for the changes before it, and is delivered without them.
            held = await process.wait_for(event="held back", chat=story.chat_id, version=version)
            assert set(held["users"]) == {story.anna.id, story.boris.id}
            await process.wait_for(event="delivered", node=other.id, held_back=True, connections=1)
        message = await story.send()
        overtaken = {"event": "overtaken", "requests": [message["request_id"]], "version": message["version"]}
        line = await story.processes[1].wait_for(**overtaken)
        assert (line["chat"], line["kind"]) == (story.chat_id, "messages_changed")
        await story.wait_for_delivery(message)
        await other.publish(is_leaving=True)
    assert await story.find_cause(message, tmp_path) is Cause.OVERTAKEN


async def test_the_bus_was_down(story: Story, bus: Valkey, tmp_path: Path) -> None:
    bus.kill()
    for process in story.processes:
        await process.wait_for(event="bus lost")
    message = await story.send()
    await story.processes[0].wait_for(event="not published", requests=[message["request_id"]])
    asked = await story.processes[1].wait_for(event="resync required", reason="bus_lost")
    assert asked["users"] == [story.boris.id]
    assert await story.find_cause(message, tmp_path) is Cause.BUS_DOWN
