"""The faults of a run, each a coroutine that breaks something, keeps it broken for a while, and mends it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

import asyncpg

from tests.chaos.crash import start_to_crash
from tests.chaos.nodes import Node
from tests.chaos.stage import Stage, needed
from tests.chaos.versions import earlier_version

Fault = Callable[[Stage, Random], Awaitable[str]]
FAULTS: dict[str, Fault] = {}
# What needs more than the service itself, so that it is left to those who ask for it.
SPECIAL: set[str] = set()


def fault(name: str, *, is_special: bool = False) -> Callable[[Fault], Fault]:
    """Register a fault; it returns what exactly was broken, for the record."""

    def register(function: Fault) -> Fault:
        FAULTS[name] = function
        if is_special:
            SPECIAL.add(name)
        return function

    return register


def seconds(random: Random, least: float, most: float) -> float:
    return round(random.uniform(least, most), 1)


def one(stage: Stage, random: Random) -> Node:
    return random.choice(stage.nodes)


@fault("node-kill")
async def kill_node(stage: Stage, random: Random) -> str:
    node = one(stage, random)
    await node.kill()
    await asyncio.sleep(seconds(random, 0.5, 3))
    await node.start()
    return node.name


@fault("node-stop")
async def stop_node(stage: Stage, random: Random) -> str:
    """SIGSTOP: it neither answers nor closes anything."""
    node, length = one(stage, random), seconds(random, 5, 12)
    node.freeze()
    try:
        await asyncio.sleep(length)
    finally:
        node.freeze(is_frozen=False)
    return f"{node.name} for {length} s"


@fault("node-term")
async def restart_nodes(stage: Stage, random: Random) -> str:
    """A rolling restart of all, under load."""
    took = []
    for node in stage.nodes:
        took.append(await node.stop())
        await node.start()
    return f"all, ended in {max(took):.1f} s at most"


@fault("node-crash")
async def crash_node(stage: Stage, random: Random) -> str:
    """SIGKILL between a commit and its publication."""
    node, commits = one(stage, random), random.randint(10, 50)
    await node.stop()
    await (await start_to_crash(node, commits))
    await node.start()
    return f"{node.name} after {commits} commits"


@fault("node-version", is_special=True)
async def run_both_versions(stage: Stage, random: Random) -> str:
    """An earlier version runs on one node, as during a deploy."""
    node, launcher = one(stage, random), await asyncio.to_thread(earlier_version, stage.folder / "earlier")
    await node.stop()
    await node.start_as(*launcher)
    await asyncio.sleep(8)
    await node.stop()
    await node.start()
    return f"{node.name} for 8 s"


@fault("pg-restart")
async def restart_postgres(stage: Stage, random: Random) -> str:
    await stage.postgres.stop()
    await stage.postgres.start()
    return "fast"


@fault("pg-crash")
async def crash_postgres(stage: Stage, random: Random) -> str:
    await stage.postgres.crash(signal.SIGQUIT)
    await stage.postgres.start()
    return "immediate"


@fault("pg-kill")
async def kill_postgres(stage: Stage, random: Random) -> str:
    await stage.postgres.crash(signal.SIGKILL)
    await asyncio.sleep(seconds(random, 0, 2))
    await stage.postgres.start()
    return "SIGKILL of all its processes"


@fault("pg-backends")
async def terminate_backends(stage: Stage, random: Random) -> str:
    """Random server processes of the nodes, one after the other."""
    connection = await stage.postgres.connect()
    ended = 0
    for _ in range(20):
        pid = await connection.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'chat_app' ORDER BY random() LIMIT 1"
        )
        ended += bool(pid and await connection.fetchval("SELECT pg_terminate_backend($1)", pid))
        await asyncio.sleep(seconds(random, 0.05, 0.4))
    await connection.close()
    return f"{ended} backends"


@fault("pg-freeze")
async def freeze_postgres(stage: Stage, random: Random) -> str:
    stage.postgres.freeze()
    try:
        await asyncio.sleep(10)
    finally:
        stage.postgres.freeze(is_frozen=False)
    return "10 s"


@fault("pg-connections")
async def take_connections(stage: Stage, random: Random) -> str:
    """The nodes lose their connections, and no others are to be had."""
    taken: list[asyncpg.Connection] = []
    first = await stage.postgres.connect()
    with suppress(asyncpg.PostgresError, OSError, TimeoutError):
        await first.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'chat_app'"
        )
        while len(taken) < 200:
            taken.append(await stage.postgres.connect())
    await asyncio.sleep(4)
    for connection in [first, *taken]:
        with suppress(asyncpg.PostgresError, OSError):
            await connection.close(timeout=5)
    return f"{len(taken)} connections taken for 4 s"


@fault("pg-locks")
async def lock_chats(stage: Stage, random: Random) -> str:
    """Somebody else holds chats for longer than anybody waits."""
    connection = await stage.postgres.connect()
    async with connection.transaction():
        rows = await connection.fetch("SELECT id FROM chat ORDER BY id LIMIT 3 FOR UPDATE")
        await asyncio.sleep(7)
    await connection.close()
    return f"{len(rows)} chats for 7 s"


@fault("bus-kill")
async def kill_bus(stage: Stage, random: Random) -> str:
    length = random.choice([1, 1, 10])
    stage.valkey.kill()
    await asyncio.sleep(length)
    await stage.valkey.start()
    return f"{length} s"


@fault("bus-kill-long", is_special=True)
async def kill_bus_for_long(stage: Stage, random: Random) -> str:
    stage.valkey.kill()
    await asyncio.sleep(60)
    await stage.valkey.start()
    return "60 s"


@fault("bus-subscriptions")
async def kill_subscriptions(stage: Stage, random: Random) -> str:
    for _ in range(6):
        await stage.valkey.ask(b"CLIENT KILL TYPE pubsub")
        await asyncio.sleep(1)
    return "each second, 6 times"


@fault("bus-freeze")
async def freeze_bus(stage: Stage, random: Random) -> str:
    stage.valkey.freeze()
    try:
        await asyncio.sleep(20)
    finally:
        stage.valkey.freeze(is_frozen=False)
    return "20 s"


async def break_link(stage: Stage, name: str, state: str, length: float, delay: float = 0.0) -> str:
    await stage.network.set(name, state, delay)
    try:
        await asyncio.sleep(length)
    finally:
        await stage.network.set(name, "open")
    return f"{name} {state} for {length} s"


@fault("bus-cut")
async def cut_bus(stage: Stage, random: Random) -> str:
    return await break_link(stage, f"{one(stage, random).name}-bus", "cut", seconds(random, 3, 10))


@fault("bus-silent")
async def silence_bus(stage: Stage, random: Random) -> str:
    """Packets of one node vanish without a word, for longer than its time limits."""
    return await break_link(stage, f"{one(stage, random).name}-bus", "frozen", seconds(random, 3, 10))


@fault("db-cut")
async def cut_database(stage: Stage, random: Random) -> str:
    return await break_link(stage, f"{one(stage, random).name}-db", "cut", seconds(random, 2, 8))


@fault("db-silent")
async def silence_database(stage: Stage, random: Random) -> str:
    return await break_link(stage, f"{one(stage, random).name}-db", "frozen", seconds(random, 2, 8))


@fault("clients-cut")
async def cut_clients(stage: Stage, random: Random) -> str:
    return await break_link(stage, f"{one(stage, random).name}-clients", "cut", seconds(random, 1, 5))


@fault("clients-silent")
async def silence_clients(stage: Stage, random: Random) -> str:
    return await break_link(stage, f"{one(stage, random).name}-clients", "frozen", seconds(random, 3, 10))


@fault("flap")
async def flap(stage: Stage, random: Random) -> str:
    """A link that comes and goes."""
    name = f"{one(stage, random).name}-{random.choice(['bus', 'db', 'clients'])}"
    for _ in range(8):
        await break_link(stage, name, "cut", seconds(random, 0.1, 0.5))
        await asyncio.sleep(seconds(random, 0.1, 0.5))
    return name


@fault("delay")
async def delay(stage: Stage, random: Random) -> str:
    name = f"{one(stage, random).name}-{random.choice(['bus', 'db', 'clients'])}"
    length = seconds(random, 5, 8)
    await stage.network.set(name, "open", 0.15)
    await asyncio.sleep(length)
    await stage.network.set(name, "open")
    return f"{name} by 150 ms for {length} s"


@fault("clock")
async def move_clock(stage: Stage, random: Random) -> str:
    """One node is an hour ahead or behind."""
    library = needed("/usr/lib/*/faketime/libfaketime.so.1", "faketime")
    node, offset = one(stage, random), random.choice(["+3600", "-3600"])
    await node.stop()
    await node.start(LD_PRELOAD=library, FAKETIME=offset, FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1")
    await asyncio.sleep(8)
    await node.stop()
    await node.start()
    return f"{node.name} by {offset} s"
