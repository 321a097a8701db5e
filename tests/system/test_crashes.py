"""P1, P4, P24: servers crash and restart while people write; every acked message stays, and none is there twice."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from chat_app.background import end_tasks
from tests.chaos.crash import start_to_crash
from tests.clients import Person, until
from tests.system.conftest import SOCKET, Follower, System, Writer, check_history, history, write_through

pytestmark = pytest.mark.timeout(400)

Crash = Callable[[System], Awaitable[None]]


async def end_postgres(system: System, number: signal.Signals) -> None:
    await system.stage.postgres.crash(number)
    await system.stage.postgres.start()


async def postgres_immediate_shutdown(system: System) -> None:
    await end_postgres(system, signal.SIGQUIT)


async def postgres_killed(system: System) -> None:
    await end_postgres(system, signal.SIGKILL)


async def node_killed(system: System) -> None:
    await system.nodes[0].kill()
    await system.nodes[0].start()


async def rolling_restart(system: System) -> None:
    for node in system.nodes:
        await node.stop()
        assert node.process.returncode == 0
        await node.start()


async def bus_killed(system: System) -> None:
    system.stage.valkey.kill()
    await asyncio.sleep(1)
    await system.stage.valkey.start()


async def link_flaps(system: System, name: str) -> None:
    for _ in range(6):
        for state in ("cut", "open"):
            await system.set_link(name, state)
            await asyncio.sleep(0.3)


async def link_to_the_database_flaps(system: System) -> None:
    await link_flaps(system, "a-db")


async def link_to_the_bus_flaps(system: System) -> None:
    await link_flaps(system, "a-bus")


CRASHES = [
    postgres_immediate_shutdown,
    postgres_killed,
    node_killed,
    rolling_restart,
    bus_killed,
    link_to_the_database_flaps,
    link_to_the_bus_flaps,
]
# Of the others each connection stays, so that it has to be enough to follow.
ENDS_CONNECTIONS = {node_killed, rolling_restart}


@pytest.mark.parametrize("crash", CRASHES, ids=lambda crash: crash.__name__)
async def test_every_acked_message_stays_and_reaches_everybody(crash: Crash, system: System) -> None:
    connection = await system.stage.postgres.connect()
    durable = [await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")]
    await connection.close()
    assert durable == ["on", "on"], "or this test means nothing"
    people = [await system.register(name, node) for name, node in (("Anna", 0), ("Boris", 1), ("Clara", 1))]
    chat = await SOCKET.create_group(*people)
    writers = [Writer(people[0], "socket", chat["id"]), Writer(people[1], "http", chat["id"])]
    writers += [Writer(people[1], "socket", chat["id"]), Writer(people[0], "http", chat["id"])]
    followers = [] if crash in ENDS_CONNECTIONS else [Follower(people[2], chat["id"])]

    late = await write_through(writers, lambda: crash(system), *followers)
    for node in range(len(system.nodes)):
        check_history(writers, await history(system.at(node, people[2]), chat["id"]))
    assert late == []


async def test_what_a_node_committed_and_never_published_reaches_everybody(system: System) -> None:
    anna, boris = await system.register("Anna", 0), await system.register("Boris", 1)
    chat = await SOCKET.open_private_chat(anna, boris)
    follower, writer = Follower(boris, chat["id"]), Writer(anna, "http", chat["id"])
    following = asyncio.create_task(follower.follow())
    await SOCKET.send(anna, chat["id"], "before")
    await until(lambda: following.done() or follower.texts)
    await system.nodes[0].stop()
    ending = await start_to_crash(system.nodes[0], 5)
    writing = asyncio.create_task(writer.write())
    try:
        await ending
        await end_tasks([writing])
        texts = await history(system.at(1, anna), chat["id"])
        assert len({*texts} - {"before"} - writer.acked.keys()) == 1, "committed, and neither acked nor published"
        await until(lambda: following.done() or {*texts} <= {*follower.texts.values()})
    finally:
        await end_tasks([following, writing])
        await system.nodes[0].start()
    assert [follower.texts[seq] for seq in range(1, len(texts) + 1)] == texts


class Stubborn(Writer):
    """One whose library swallows a cancellation, as asyncio.wait_for of Python 3.11 may."""

    async def write(self) -> None:
        is_swallowed = False
        while True:
            self.acked[f"{len(self.acked)}"] = 0
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if is_swallowed:
                    raise
                is_swallowed = True


@pytest.mark.timeout(30)
async def test_writing_ends_although_a_library_swallows_the_cancellation() -> None:
    nobody = Person("http://nowhere", uuid4(), uuid4(), "", "Nobody")
    assert await write_through([Stubborn(nobody, "http", "")], lambda: asyncio.sleep(0)) == []
