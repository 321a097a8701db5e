"""Sending: private chats, groups and a modest rate, of ours and Node's server with the same chats and texts."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import orjson

from tests.bench import seed
from tests.bench.generator import Generator
from tests.bench.load import SLOT, Client, Counts, Load
from tests.bench.report import Experiment, Outcome, Row, percentile
from tests.bench.seed import Chat
from tests.bench.servers import Rig, Server
from tests.bench.usage import Usage, per

WARM_SECONDS = 3
SETTLE_SECONDS = 1
TEXT = "Shall we meet at the station at nine? The forecast says rain in the afternoon, so bring a jacket. " * 2
MARKER = SLOT.decode()


@dataclass(frozen=True)
class Shape:
    """`senders`: the senders of each chat. `opened`: whether all members have the chat active."""

    chats: int
    members: int
    senders: int = 1
    opened: bool = True
    rate: float | None = None


SHAPES = {
    "W0: 2 private chats, to try the bench": Shape(2, 2),
    "W1: 100 private chats, one message in flight each": Shape(100, 2),
    "W2: a group of 200, 10 senders, active everywhere": Shape(1, 200, senders=10),
    "W2-list: a group of 200, 10 senders, active nowhere": Shape(1, 200, senders=10, opened=False),
    "W3: 50 groups of 20, one sender each": Shape(50, 20),
    "W10: 10 private chats, 20 messages a second in all": Shape(10, 2, rate=20),
}


def experiments() -> list[Experiment]:
    beside_node = [
        Experiment(*title.split(": "), {"chat_app": partial(_ours, shape), "node": partial(_node, shape)})
        for title, shape in SHAPES.items()
    ]
    two_beside_one = [
        Experiment(
            f"{name}-two",
            f"{about}, by two processes on a bus",
            {"two": partial(_ours, shape, workers=2), "one": partial(_ours, shape)},
        )
        for (name, about), shape in ((title.split(": "), shape) for title, shape in SHAPES.items())
        if name in ("W1", "W2", "W3")
    ]
    return beside_node + two_beside_one


def ours_load(chats: list[Chat], shape: Shape) -> Load:
    """The marker is the client_id, which only messages_changed has. For loads of the list it is in the text too."""
    clients = []
    for chat in chats:
        for number, person in enumerate(chat.members):
            auth = {"token": person.token, "active_chat_id": str(chat.id) if shape.opened else None}
            text = TEXT if shape.opened else MARKER + TEXT
            command = _command(chat_id=str(chat.id), client_id=MARKER, type="text", text=text)
            clients.append(_client(auth, command, chat, number < shape.senders))
    return Load(clients, b'42["ready"', counts_by_list=not shape.opened, rate=shape.rate)


def node_load(chats: list[Chat], shape: Shape) -> Load:
    clients = []
    for chat in chats:
        for number, person in enumerate(chat.members):
            command = _command(chat_id=str(chat.id), text=MARKER + TEXT)
            clients.append(_client({"user_id": str(person.id)}, command, chat, number < shape.senders))
    return Load(clients, b"40{", rate=shape.rate)


def _command(**data: str) -> bytes:
    return orjson.dumps(["send_message", data])


def _client(auth: dict[str, str | None], command: bytes, chat: Chat, sends: bool) -> Client:
    return Client(b"40" + orjson.dumps(auth), command, sends=sends, others=len(chat.members) - 1)


def _ours(shape: Shape, rig: Rig, seconds: float, *, workers: int = 1) -> Outcome:
    chats = seed.make_chats(shape.chats, shape.members)
    with rig.database() as database:
        seed.write(database, seed.members_of(chats), chats)
        return measure(rig.ours(database, workers=workers), ours_load(chats, shape), seconds)


def _node(shape: Shape, rig: Rig, seconds: float) -> Outcome:
    chats = seed.make_chats(shape.chats, shape.members)
    with rig.database("template1") as database:
        seed.write_for_node(database, chats)
        return measure(rig.node(database), node_load(chats, shape), seconds)


def measure(
    serving: AbstractContextManager[Server],
    load: Load,
    seconds: float,
    during: Callable[[Server], AbstractContextManager[Outcome]] | None = None,
) -> Outcome:
    """Run the load on a server. `during` runs beside it."""
    with serving as server:
        generator = Generator(server.port, load)
        try:
            generator.connect()
            generator.idle(SETTLE_SECONDS)
            with during(server) if during else nullcontext(Outcome({}, [])) as beside:
                outcome = _outcome(*generator.run(min(WARM_SECONDS, seconds), seconds, server.usage))
        finally:
            generator.close()
        return Outcome(outcome.row | beside.row, [*outcome.errors, *beside.errors, *server.complaints()])


def _outcome(counts: Counts, before: Usage, after: Usage) -> Outcome:
    row: Row = {
        "messages/s": counts.acked / counts.seconds,
        "deliveries/s": counts.delivered / counts.seconds,
        **after.rates(before, "messages", counts.acked),
        "deliveries per CPU-s of the server": per(counts.delivered, after.server.total - before.server.total),
        "ack p50, ms": percentile(counts.ack_ms, 50),
        "ack p99, ms": percentile(counts.ack_ms, 99),
        "delivery p50, ms": percentile(counts.delivery_ms, 50),
        "delivery p99, ms": percentile(counts.delivery_ms, 99),
        **after.since(before, counts.seconds),
        "memory, MB": after.memory / 2**20,
    }
    unsaid = counts.errors - len(counts.texts)
    return Outcome(row, counts.texts + [f"{unsaid} errors more"] * (unsaid > 0))
