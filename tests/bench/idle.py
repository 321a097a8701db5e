"""Idle connections: the memory of each, and the time until all are connected."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import orjson

from tests.bench import seed
from tests.bench.generator import Generator
from tests.bench.load import Client, Load
from tests.bench.report import Experiment, Outcome
from tests.bench.seed import Person
from tests.bench.servers import Rig, Server

WARM_UP = 100
PEOPLE = 1000


def experiments() -> list[Experiment]:
    return [
        Experiment(
            f"W4-{number}",
            f"{number:,} idle connections",
            {"chat_app": partial(_ours, number), "node": partial(_node, number)},
        )
        for number in (2_000, 10_000)
    ]


def _ours(number: int, rig: Rig, seconds: float) -> Outcome:
    people = seed.make_people(PEOPLE)
    with rig.database() as database:
        seed.write(database, people, [])
        return _measure(
            rig.ours(database), people, number, lambda person: {"token": person.token}, b'42["ready"', seconds
        )


def _node(number: int, rig: Rig, seconds: float) -> Outcome:
    people = seed.make_people(PEOPLE)
    with rig.database("template1") as database:
        seed.write_for_node(database, [])
        return _measure(rig.node(database), people, number, lambda person: {"user_id": str(person.id)}, b"40{", seconds)


def _measure(
    serving: AbstractContextManager[Server],
    people: list[Person],
    number: int,
    auth: Callable[[Person], dict[str, str]],
    ready: bytes,
    seconds: float,
) -> Outcome:
    """A few connect first, so that memory used only once is not counted. The cores are those of idle connections."""
    clients = [Client(b"40" + orjson.dumps(auth(people[at % len(people)]))) for at in range(number)]
    with serving as server:
        generator = Generator(server.port, Load(clients, ready))
        try:
            generator.connect(WARM_UP)
            generator.idle(1)
            before = server.usage()
            took = generator.connect()
            connected = server.usage()
            generator.idle(seconds)
            after = server.usage()
        finally:
            generator.close()
    counted = number - WARM_UP
    row = {
        "connected in, s": took,
        "CPU for each connect, ms": (connected.server.total - before.server.total) / counted * 1000,
        "memory of each, KB": (after.memory - before.memory) / counted / 1024,
        **after.since(connected, seconds),
    }
    return Outcome(row, [*generator.counts.texts, *server.complaints()])
