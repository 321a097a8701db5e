"""P1, P4, P24: servers crash and restart while people write; every acked message stays, and none is there twice."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest

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
