"""PostgreSQL loses backends, freezes and holds locks: only 503, in time, and full service after its return."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from chat_app import migrations
from chat_app.cli.embedded import _processes, embedded_postgres
from chat_app.crud.messages import Draft
from chat_app.crud.outbox import MOST_AT_ONCE, Outbox
from chat_app.database import PATIENCE_SECONDS
from chat_app.errors import Unavailable
from chat_app.models import User
from chat_app.models.messages import TextCreate
from chat_app.models.sessions import Actor
from chat_app.settings import Settings
from tests.clients import DEADLINE, Answer, HttpTransport, Person, SocketTransport, Transport, until
from tests.conftest import FAST, free_port
from tests.factories import UserFactory
from tests.service import MakePerson, MakeUser, Service, making_people

Freeze = Callable[[], Any]

KEY = 20_261_127


@pytest.fixture(scope="module")
def folder(data_dir: Path) -> Path:
    return data_dir / "faults"


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """A database server of its own, since other tests need theirs."""
    with embedded_postgres(folder, settings=FAST) as address:
        migrations.upgrade(address.replace("postgresql://", "postgresql+asyncpg://"))
        yield address


@pytest.fixture(scope="module")
async def service(service: Service, url: str, service_settings: Settings) -> AsyncIterator[Service]:
    """A node of its own. Only the first node of a process counts requests, and other tests need that one."""
    changes = {"port": free_port(), "database_url": SecretStr(url)}
    async with Service(service_settings.model_copy(update=changes), patience=None) as running:
        yield running


@pytest.fixture(scope="module")
async def make_user(service: Service) -> MakeUser:
    async def make(**values: object) -> User:
        async with service.database.transaction() as db:
            return await UserFactory.make(db, **values)

    return make


@pytest.fixture
async def make_person(service: Service, make_user: MakeUser) -> AsyncIterator[MakePerson]:
    async with making_people(service, make_user) as make:
        yield make


@pytest.fixture
async def observer(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection without the service's timeouts."""
    connection = await asyncpg.connect(url, server_settings={"application_name": "tests"})
    yield connection
    await connection.close(timeout=DEADLINE)


@pytest.fixture
def frozen(folder: Path) -> Freeze:
    """`with frozen():` all processes of the server are stopped."""

    @contextmanager
    def freeze() -> Iterator[None]:
        processes = list(_processes(folder.resolve()).values())
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)

    return freeze


@pytest.fixture
async def transports(service: Service) -> list[Transport]:
    return [SocketTransport(), HttpTransport(service.api.openapi())]


class Scene:
    """A group with one member for each kind of call, since the commands of one connection wait for each other."""

    def __init__(self, transports: list[Transport], people: list[Person], chat_id: str) -> None:
        self.transports = transports
        self.people = people
        self.chat_id = chat_id
        self.answers: list[tuple[float, str, Answer]] = []

    def calls(self, people: list[Person]) -> list[Awaitable[Answer]]:
        """A call of each kind over each transport: reads, changes and a message."""
        where = {"chat_id": self.chat_id}
        argument = {"type": "text", "text": "x"}
        return [
            self.timed(transport, person, name, **values)
            for transport in self.transports
            for person, name, values in (
                (people[0], "list_chats", {}),
                (people[1], "list_messages", where),
                (people[2], "like_message", where | {"seq": 1}),
                (people[3], "rename_chat", where | {"title": str(uuid4())}),
                (people[4], "send_message", where | argument | {"client_id": str(uuid4())}),
            )
        ]

    async def timed(self, transport: Transport, person: Person, name: str, **values: Any) -> Answer:
        started = time.monotonic()
        answer = await transport.call(person, name, **values)
        self.answers.append((time.monotonic() - started, f"{transport.name} {name}", answer))
        return answer

    def statuses(self) -> Counter[tuple[str, int]]:
        """The number of failures by kind of call and status."""
        return Counter((name, answer.status) for _, name, answer in self.answers if not answer.ok)

    def slowest(self) -> float:
        return max(seconds for seconds, _, _ in self.answers)


@pytest.fixture
async def scene(transports: list[Transport], make_person: MakePerson) -> Scene:
    people = [await make_person(f"Person {number}", connected=True) for number in range(10)]
    chat = await transports[0].create_group(*people)
    return Scene(transports, people, chat["id"])


async def works(scene: Scene) -> bool:
    """Whether each kind of call succeeds."""
    return all(answer.ok for answer in await asyncio.gather(*scene.calls(scene.people)))


async def works_again(scene: Scene) -> float:
    """Wait until each kind of call succeeds. Returns the seconds."""
    started = time.monotonic()
    async with asyncio.timeout(DEADLINE):
        while not await works(scene):
            pass
    return time.monotonic() - started


async def test_terminated_backends_cause_only_503(scene: Scene, observer: asyncpg.Connection) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    ended = 0

    async def load() -> None:
        while ended < 150:
            await asyncio.gather(*scene.calls(scene.people))

    loads = [asyncio.create_task(load()) for _ in range(3)]
    while ended < 150:
        backends = await observer.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'chat_app'")
        if backends:
            ended += await observer.fetchval("SELECT pg_terminate_backend($1)", chance.choice(backends)["pid"])
        await asyncio.sleep(chance.random() / 50)
    await asyncio.gather(*loads)
    assert {status for _, status in scene.statuses()} <= {503}, (seed, scene.statuses())
    await until(lambda: all(person.socket.client.connected for person in scene.people))
    await works_again(scene)


def in_time(scene: Scene, usual: float) -> bool:
    """Whether the slowest answer came within the service's timeout, with a margin for a busy machine."""
    return scene.slowest() < 1.5 * PATIENCE_SECONDS + 10 * usual


async def usual_seconds(scene: Scene) -> float:
    """The seconds of the slowest kind of call without a fault, in this run."""
    for _ in range(3):
        assert await works(scene)
    usual = scene.slowest()
    scene.answers.clear()
    return usual


class TestFrozen:
    """The database sends neither answers nor errors."""

    async def test_a_frozen_database_causes_503_in_time_and_calls_succeed_soon_after(
        self, scene: Scene, frozen: Freeze
    ) -> None:
        usual = await usual_seconds(scene)
        with frozen():
            # Calls from before the freeze, later ones, and those after all connections were given up.
            for _ in range(3):
                early = [asyncio.ensure_future(call) for call in scene.calls(scene.people[:5])]
                await asyncio.sleep(PATIENCE_SECONDS / 3)
                await asyncio.gather(*early, *scene.calls(scene.people[5:]))
        assert {answer.status for _, _, answer in scene.answers} == {503}, scene.statuses()
        assert in_time(scene, usual), (scene.slowest(), usual)
        assert await works_again(scene) < 5 + 10 * usual
        assert all(person.socket.client.connected for person in scene.people)

    async def test_sends_that_wait_for_a_batch_are_given_up_with_it(
        self, scene: Scene, frozen: Freeze, service: Service
    ) -> None:
        usual = await usual_seconds(scene)
        before = len(await scene.transports[1].history(scene.people[0], scene.chat_id, limit=100))
        box, actor = Outbox(service.database), Actor(UUID(scene.people[4].id), uuid4())
        drafts = [
            Draft(actor, UUID(scene.chat_id), TextCreate(type="text", text="x", client_id=uuid4()))
            for _ in range(2 * MOST_AT_ONCE)
        ]
        with frozen():
            started = time.monotonic()
            results = await asyncio.gather(*(box.send(draft) for draft in drafts), return_exceptions=True)
            seconds = time.monotonic() - started
        assert {type(result) for result in results} == {Unavailable}
        assert seconds < 1.5 * PATIENCE_SECONDS + 10 * usual
        await works_again(scene)
        # The outcome of the first batch is unknown; the others were not tried.
        page = await scene.transports[1].history(scene.people[0], scene.chat_id, limit=100)
        assert len(page) <= before + 1 + len([one for one in scene.answers if one[1].endswith("send_message")])


class TestHeld:
    async def test_calls_that_wait_for_a_lock_or_a_connection_are_answered_in_time(
        self, scene: Scene, observer: asyncpg.Connection, service: Service
    ) -> None:
        usual = await usual_seconds(scene)
        async with observer.transaction():
            await observer.execute("SELECT FROM chat WHERE id = $1 FOR UPDATE", UUID(scene.chat_id))
            where = {"chat_id": scene.chat_id, "seq": 1}
            # Twice as many calls as connections.
            socket, http = scene.transports
            likes = [scene.timed(socket, person, "like_message", **where) for person in scene.people[:8]]
            likes += [scene.timed(http, person, "like_message", **where) for person in scene.people]
            waiting = [asyncio.ensure_future(like) for like in likes]
            await asyncio.sleep(PATIENCE_SECONDS / 3)
            waiting += [
                asyncio.ensure_future(scene.timed(transport, scene.people[n], name, chat_id=scene.chat_id, **values))
                for transport in scene.transports
                for n, name, values in (
                    (8, "rename_chat", {"title": "x"}),
                    (9, "send_message", {"type": "text", "text": "x", "client_id": str(uuid4())}),
                )
            ]
            answers = await asyncio.gather(*waiting)
        statuses = Counter(answer.status for answer in answers)
        # A rename takes no held lock: it only waits for a connection, and may get one.
        assert statuses[503] >= len(answers) - 2 and statuses.keys() <= {200, 503}, scene.statuses()
        assert in_time(scene, usual), (scene.slowest(), usual)
        await works_again(scene)


STUCK = (
    f"""CREATE FUNCTION stuck() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN
        IF NEW.text = 'stuck' THEN
            BEGIN
                PERFORM pg_advisory_xact_lock_shared({KEY});
            EXCEPTION WHEN query_canceled THEN
                PERFORM pg_advisory_xact_lock_shared({KEY});
            END;
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE CONSTRAINT TRIGGER stuck AFTER INSERT ON message DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION stuck()""",
    f"SELECT pg_advisory_lock({KEY})",
)


async def test_a_commit_that_ends_after_its_timeout_is_followed_by_a_resync(
    transports: list[Transport], make_person: MakePerson, observer: asyncpg.Connection
) -> None:
    """As with a hanging disk: the server can't cancel the commit, and ends it after the clients have resynced."""
    for statement in STUCK:
        await observer.execute(statement)
    people = [await make_person(name, connected=True) for name in ("Anna", "Boris")]
    chats = [await transports[0].create_group(*people) for _ in transports]
    for person in people:
        await person.forget()
    text = {"type": "text", "text": "stuck", "client_id": str(uuid4())}
    sends = [
        transport.call(people[0], "send_message", chat_id=chat["id"], **text)
        for transport, chat in zip(transports, chats, strict=True)
    ]
    assert {answer.status for answer in await asyncio.gather(*sends)} == {503}
    await people[1].socket.wait_for("resync_required")
    sync = (await transports[0].do(people[1], "list_chats"))["sync"]
    people[1].socket.events.clear()
    await observer.fetch(f"SELECT pg_advisory_unlock({KEY})")
    await people[1].socket.wait_for("resync_required")
    changed = (await transports[0].do(people[1], "list_chats", changed_since=sync))["items"]
    assert "stuck" in {chat["last_message"]["text"] for chat in changed}
