"""One run: people are made, clients do what they do, faults come and go; at the end all is read from everywhere.

What the clients and the faults will do follows from the seed; what comes of it does not.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.chaos import account_acts, group_acts, hostile, mark_acts  # they register their parts
from tests.chaos.acts import LEAST_MEMBERS
from tests.chaos.calls import Person
from tests.chaos.clients import Client
from tests.chaos.disks import disks
from tests.chaos.faults import FAULTS, SPECIAL
from tests.chaos.final import read_everything, verify
from tests.chaos.history import Json, Recorder
from tests.chaos.stage import SERVICE, Stage, stage
from tests.chaos.world import NEWEST, PARTS, Turn, World

assert account_acts and group_acts and hostile and mark_acts
NODES = ("a", "b", "c")
# Of the clients so many are the first of their user; the others are second devices.
USERS_SHARE = 0.7
PAUSE_SECONDS = (2.0, 5.0)
PREPARATION_SECONDS = 60.0
# Hashing passwords is what takes the time, and a slow machine must answer each within the time that is allowed.
AT_ONCE = 8
# So often each part is played at least.
ROUNDS = 4
REQUIRED = {name for name in PARTS if name != "delete_avatar"}


@dataclass
class Plan:
    """What is asked for. With the same seed the same operations and faults are chosen."""

    seed: int
    minutes: float = 6.0
    faults: Sequence[str] = tuple(name for name in FAULTS if name not in SPECIAL)
    nodes: int = 3
    clients: int = 40
    pace: float = 0.4
    launcher: Sequence[str] = SERVICE
    # Messages that a client sends at once; 0: a few.
    burst: int = 0
    # Operations that have to succeed, or the run proves nothing.
    required: Sequence[str] = field(default_factory=lambda: sorted(REQUIRED))

    def schedule(self) -> Iterator[tuple[float, str, int]]:
        """Without end: the pause before a fault, its name, and its seed. Each comes once before one comes again."""
        random = Random(f"{self.seed} faults")
        while self.faults:
            for name in random.sample(list(self.faults), len(self.faults)):
                yield random.uniform(*PAUSE_SECONDS), name, random.getrandbits(32)

    def choices(self, client: int) -> Iterator["Choice"]:
        """Without end: what a client does next, over which transport, after which pause, and with which luck."""
        random = Random(f"{self.seed} client {client}")
        weights = [weight for weight, _ in PARTS.values()]
        # At first everything comes, distributed among the clients; then what is usual.
        first = Random(self.seed).sample([*PARTS] * ROUNDS, ROUNDS * len(PARTS))[client :: self.clients]
        while True:
            name = first.pop() if first else random.choices(list(PARTS), weights)[0]
            pause = random.expovariate(1 / self.pace)
            yield Choice(name, random.random() < 0.6, pause, random.getrandbits(32))


class Choice(NamedTuple):
    name: str
    by_socket: bool
    pause: float
    seed: int


async def run(plan: Plan, folder: Path) -> Path:
    """Returns the file of the recorded history."""
    recorder = Recorder(folder / "history.jsonl")
    try:
        with disks(folder, plan.faults):
            await _run(plan, folder, recorder)
    finally:
        recorder.close()
    return recorder.path


async def _run(plan: Plan, folder: Path, recorder: Recorder) -> None:
    async with stage(folder, recorder, NODES[: plan.nodes], plan.launcher) as staged:
        await _make_people(plan, staged)
        about = {"seed": plan.seed, "nodes": [node.name for node in staged.nodes]}
        about["users"] = [person.id for person in staged.world.people]
        required = [name for name in plan.required if not (staged.world.has_earlier and name in NEWEST)]
        recorder.write("run", faults=list(plan.faults), operations=required, burst=plan.burst, **about)
        await _play(plan, staged)
        await verify(staged)
        recorder.write("figures", recoveries=staged.recoveries)
        recorder.write("end")


async def _make_people(plan: Plan, staged: Stage) -> None:
    """Register users; the last of the clients are second devices of the first users."""
    world, random = staged.world, Random(f"{plan.seed} people")
    world.burst, world.has_earlier = plan.burst, "node-version" in plan.faults
    users = max(LEAST_MEMBERS + 4, round(plan.clients * USERS_SHARE))
    world.people = [Person("", world.new_phone(), [account_acts.PASSWORD]) for _ in range(users)]
    for number in range(max(plan.clients, users)):
        person = world.people[number % users]
        luck = Random(random.getrandbits(32))
        staged.clients.append(Client(f"c{number}", person, staged.nodes, staged.recorder, luck))
    world.clients = staged.clients
    slots = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(*(_register(client, slots) for client in staged.clients[:users]))
    await asyncio.gather(*(_log_in(client, slots) for client in staged.clients))
    await asyncio.gather(*(_make_group(world, client, random) for client in staged.clients[: users // 4]))


async def _register(client: Client, slots: asyncio.Semaphore) -> None:
    args = {"phone": client.person.phone, "password": client.person.passwords[0], "name": client.person.phone[-4:]}
    async with slots:
        client.person.id = (await _surely(client, "register", args, recorded={}, token=None))["id"]
    client.model.user_id = client.person.id


async def _log_in(client: Client, slots: asyncio.Semaphore) -> None:
    client.model.user_id = client.person.id
    async with slots, asyncio.timeout(PREPARATION_SECONDS):
        while not client.token:
            await client.log_in()


async def _make_group(world: World, client: Client, random: Random) -> None:
    """Of those who stand near: far from all have a chat with each other."""
    place = world.people.index(client.person)
    near = [world.people[(place + step) % len(world.people)].id for step in range(1, LEAST_MEMBERS + 3)]
    group = await _surely(client, "create_group", {"title": f"group of {client.name}", "member_ids": near})
    world.chats.append(group["id"])
    world.members[group["id"]] = {client.person.id, *near}


async def _surely(client: Client, name: str, args: Json, **special: Any) -> Json:
    """Before any fault: what is refused since too many ask at once is asked again."""
    async with asyncio.timeout(PREPARATION_SECONDS):
        while True:
            answer = await client.over_http(name, args, **special)
            if answer.ok:
                data: Json = answer.data
                return data
            await asyncio.sleep(0.2)


async def _play(plan: Plan, staged: Stage) -> None:
    async with asyncio.TaskGroup() as tasks:
        connecting = [tasks.create_task(client.stay_connected()) for client in staged.clients]
        await asyncio.gather(*(client.is_caught_up.wait() for client in staged.clients))
        async with asyncio.TaskGroup() as acting:
            for number, client in enumerate(staged.clients):
                acting.create_task(_act(plan, staged.world, client, number))
            await _break_things(plan, staged)
            staged.world.is_over = True
        await read_everything(staged)
        for task in connecting:
            task.cancel()
        for client in staged.clients:
            await client.close()


async def _act(plan: Plan, world: World, client: Client, number: int) -> None:
    for choice in plan.choices(number):
        await asyncio.sleep(choice.pause)
        if world.is_over:
            return
        await PARTS[choice.name][1](Turn(world, client, Random(choice.seed), choice.by_socket))


async def _break_things(plan: Plan, staged: Stage) -> None:
    """One fault after the other, each at least once, until the time is over."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + 60 * plan.minutes
    for number, (pause, name, seed) in enumerate(plan.schedule()):
        if number >= len(plan.faults) and loop.time() + pause > ends:
            break
        await asyncio.sleep(pause)
        began = staged.recorder.now
        detail = await FAULTS[name](staged, Random(seed))
        staged.recorder.write("fault", name=name, t=began, until=staged.recorder.now, detail=detail)
        await staged.recover(name)
    with suppress(TimeoutError):
        await asyncio.sleep(max(0.0, ends - loop.time()))
