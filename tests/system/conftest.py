"""A system of its own for tests that break it: nodes as processes, a durable PostgreSQL, a bus, links between them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import randrange
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
from socketio.exceptions import SocketIOError

from chat_app.background import end_tasks
from tests import planted
from tests.chaos.history import Recorder
from tests.chaos.nodes import Node
from tests.chaos.stage import Stage, stage
from tests.clients import Answer, Person, SocketTransport, http_answer, until

Json = dict[str, Any]
SOCKET = SocketTransport()
LOGIN = "/api/v1/auth/login"
PASSWORD = "a long password"
WRITE_SECONDS = 60
# What may be asked again: nobody knows whether it was done.
UNKNOWN = (SocketIOError, httpx.TransportError, TimeoutError)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("system")


class System:
    """Two nodes, a and b, each reached over a link of its own; people log in with a password."""

    def __init__(self, running: Stage) -> None:
        self.stage = running
        self.people: list[Person] = []
        # By the id of the user, and by the access token that came with it.
        self.phones: dict[str, str] = {}
        self.refresh_tokens: dict[str, str] = {}

    @property
    def nodes(self) -> list[Node]:
        return self.stage.nodes

    async def register(self, name: str, node: int = 0) -> Person:
        phone = f"+79{randrange(10**9):09}"
        async with httpx.AsyncClient(base_url=self.base(node), verify=False, timeout=30) as http:
            body = {"phone": phone, "password": PASSWORD, "name": name}
            assert (await http.post("/api/v1/auth/register", json=body)).status_code == 201
        person = await self.log_in(phone, name, node)
        self.phones[person.id] = phone
        return person

    async def log_in(self, phone: str, name: str, node: int) -> Person:
        """One more session; the name of the person is what the tests call it."""
        async with httpx.AsyncClient(base_url=self.base(node), verify=False, timeout=30) as http:
            tokens = (await http.post(LOGIN, data={"username": phone, "password": PASSWORD})).json()
        self.refresh_tokens[tokens["access_token"]] = tokens["refresh_token"]
        return self.person(tokens["access_token"], name, node)

    def person(self, token: str, name: str, node: int) -> Person:
        """Who has this token, at this node."""
        claims = jwt.decode(token, options={"verify_signature": False})
        made = Person(self.base(node), UUID(claims["sub"]), UUID(claims["sid"]), token, name)
        self.people.append(made)
        return made

    def at(self, node: int, person: Person) -> Person:
        """The same session at another node."""
        return self.person(person.token, person.name, node)

    def base(self, node: int) -> str:
        return f"http://127.0.0.1:{self.nodes[node].entrance}"

    async def set_link(self, name: str, state: str) -> None:
        await self.stage.network.set(name, state)

    async def close(self) -> None:
        for person in self.people:
            await person.close()
        self.people.clear()


def brings(event: Json, seq: int) -> bool:
    return seq in [message["seq"] for message in event["messages"]]


@pytest.fixture(scope="session")
async def running_stage(data_dir: Path) -> AsyncIterator[Stage]:
    folder = data_dir / "system"
    folder.mkdir()
    recorder = Recorder(folder / "notes")
    async with stage(folder, recorder, "ab", (sys.executable, "-m", *planted.launcher)) as running:
        yield running
    recorder.close()


@pytest.fixture
async def system(running_stage: Stage) -> AsyncIterator[System]:
    """As it was before each test: both nodes are there, and deliver to each other."""
    made = System(running_stage)
    yield made
    await made.close()
    for node in made.nodes:
        for end in ("db", "bus", "clients"):
            await made.set_link(f"{node.name}-{end}", "open")
    await until(lambda: all(node.process.returncode is None for node in made.nodes))


class Writer:
    """Sends numbered texts one after another. Every other one whose outcome is unknown is sent again until it is acked.

    `acked`: the seq of each text. `unknown`: those that were given up.
    """

    def __init__(self, person: Person, transport: str, chat_id: str) -> None:
        self.person, self.transport, self.chat_id = person, transport, chat_id
        self.acked: dict[str, int] = {}
        self.unknown: set[str] = set()

    async def write(self) -> None:
        for number in count():
            text = f"{self.person.name} by {self.transport} {number}"
            message = {"type": "text", "text": text, "client_id": str(uuid4())}
            while not (answer := await self._try(message)).ok:
                assert answer.status == 503, f"{text}: {answer}"
                if number % 2:
                    self.unknown.add(text)
                    break
                await asyncio.sleep(0.05)
            else:
                self.acked[text] = answer.data["seq"]

    async def _try(self, message: Json) -> Answer:
        with suppress(*UNKNOWN):
            if self.transport == "http":
                path = f"/api/v1/chats/{self.chat_id}/messages"
                return http_answer(await self.person.http.post(path, json=message))
            if not (self.person.sockets and self.person.sockets[-1].client.connected):
                await self.person.connect()
            # A connection that breaks leaves the call unanswered; a node answers within 3 s what it can.
            async with asyncio.timeout(6):
                return await self.person.sockets[-1].call("send_message", {"chat_id": self.chat_id, **message})
        return Answer(503, None, "unavailable")


class Follower:
    """A client that has a chat open: it keeps the messages it is sent, and fetches what it learns that it lacks."""

    def __init__(self, person: Person, chat_id: str) -> None:
        self.person, self.chat_id = person, chat_id
        self.version, self.place = 0, 0
        self.texts: dict[int, str] = {}

    async def follow(self) -> None:
        await self.person.open(self.chat_id)
        await self._fetch()
        while True:
            while self.place < len(self.person.socket.events):
                name, event = self.person.socket.events[self.place]
                self.place += 1
                if name == "resync_required" or (name == "messages_changed" and event["since"] > self.version):
                    await self._fetch()
                elif name == "messages_changed":
                    self._keep(event)
            self.person.socket.arrived.clear()
            await self.person.socket.arrived.wait()

    async def _fetch(self) -> None:
        has_more = True
        while has_more:
            answer = await SOCKET.call(self.person, "list_changes", chat_id=self.chat_id, since=self.version)
            if answer.ok:
                self._keep(answer.data)
                has_more = answer.data["has_more"]
            else:
                assert answer.status == 503, answer

    def _keep(self, page: Json) -> None:
        self.version = max(self.version, page["version"])
        self.texts |= {message["seq"]: message["text"] for message in page["messages"]}


async def history(reader: Person, chat_id: str) -> list[str | None]:
    """The text of each message, from seq 1 on, as this node reads it."""
    messages: list[Json] = []
    while not messages or messages[0]["seq"] > 1:
        bounds = {"before": messages[0]["seq"]} if messages else {}
        page = await SOCKET.history(reader, chat_id, limit=100, **bounds)
        assert page, "a page ended early"
        messages = sorted(page, key=lambda message: message["seq"]) + messages
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1)), "not 1, 2, 3 …"
    return [message["text"] for message in messages]


def check_history(writers: list[Writer], texts: list[str | None]) -> None:
    """Whether each acked message is at its seq, each text there at most once, and nothing there that nobody sent."""
    for writer in writers:
        start = f"{writer.person.name} by {writer.transport} "
        found = [(text, seq) for seq, text in enumerate(texts, 1) if text and text.startswith(start)]
        assert len(dict(found)) == len(found), "a message is there twice"
        assert writer.acked.items() <= set(found), f"lost or elsewhere: {sorted(writer.acked.items() - set(found))}"
        assert dict(found).keys() - writer.acked.keys() <= writer.unknown | {last(writer)}, "nobody sent this"


def last(writer: Writer) -> str:
    """The text that was under way when the writing ended."""
    return f"{writer.person.name} by {writer.transport} {len(writer.acked) + len(writer.unknown)}"


async def write_through(
    writers: list[Writer], disturb: Callable[[], Awaitable[None]], *followers: Follower, least: int = 20
) -> list[str]:
    """Write before, during and after a disturbance, so many messages of each writer; then wait for the followers.

    Returns what did not happen in time, for after the history was checked.
    """
    tasks = [asyncio.create_task(writer.write()) for writer in writers]
    following = [asyncio.create_task(follower.follow()) for follower in followers]
    late = []
    try:
        await _written(writers, tasks, least)
        await disturb()
        if not await _written(writers, tasks, least):
            late.append("messages are not acked again")
        await end_tasks(tasks)
        acked = {text for writer in writers for text in writer.acked}
        if not await _followed(followers, following, acked):
            late.append(f"followers lack {[sorted(acked - {*follower.texts.values()}) for follower in followers]}")
    finally:
        await end_tasks([*tasks, *following])
    results = await asyncio.gather(*tasks, *following, return_exceptions=True)
    return late + [repr(result) for result in results if not isinstance(result, asyncio.CancelledError)]


async def _written(writers: list[Writer], tasks: list[asyncio.Task[None]], least: int) -> bool:
    """Whether each writer has so many more messages acked within the deadline."""
    goals = [len(writer.acked) + least for writer in writers]

    def is_done() -> bool:
        return all(len(writer.acked) >= goal for writer, goal in zip(writers, goals, strict=True))

    with suppress(TimeoutError):
        await until(lambda: any(task.done() for task in tasks) or is_done(), WRITE_SECONDS)
    return is_done()


async def _followed(followers: tuple[Follower, ...], tasks: list[asyncio.Task[None]], texts: set[str]) -> bool:
    def have_all() -> bool:
        return all(texts <= {*follower.texts.values()} for follower in followers)

    with suppress(TimeoutError):
        await until(lambda: any(task.done() for task in tasks) or have_all())
    return have_all()
