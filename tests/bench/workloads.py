"""What is done to the servers: one entry for each workload that sends messages."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import orjson

from tests.bench import seed
from tests.bench.generator import SLOT, Client, Counts, Generator, Load
from tests.bench.seed import Chat
from tests.bench.servers import House, Server

WARM_SECONDS = 2
SETTLE_SECONDS = 1
TEXT = "Shall we meet at the station at nine? The forecast says rain in the afternoon, so bring a jacket. " * 2
MARKER = SLOT.decode()


@dataclass(frozen=True)
class Workload:
    """`senders`: how many of each chat send. `opened`: whether everybody has the chat active."""

    name: str
    title: str
    chats: int
    members: int
    senders: int = 1
    opened: bool = True
    rate: float | None = None


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1", "100 private chats, one message in flight each", 100, 2),
        Workload("W2", "a group of 200, 10 senders, active everywhere", 1, 200, senders=10),
        Workload("W2-list", "a group of 200, 10 senders, active nowhere", 1, 200, senders=10, opened=False),
        Workload("W3", "50 groups of 20, one sender each", 50, 20),
        Workload("W10", "10 private chats, 20 messages a second in all", 10, 2, rate=20),
    )
}


@dataclass
class Figures:
    """What one run gave. Per CPU second: of the server, and of the server with its database."""

    counts: Counts
    server_cpu: float
    database_cpu: float
    memory: int
    crashes: int

    @property
    def errors(self) -> int:
        return self.counts.errors + self.crashes


def ours_load(chats: list[Chat], workload: Workload) -> Load:
    """The marker is the client_id, which only messages_changed carries; for the list alone it is in the text too."""
    clients = []
    for chat in chats:
        for number, person in enumerate(chat.members):
            connect = b"40" + orjson.dumps(
                {"token": person.token, "active_chat_id": str(chat.id) if workload.opened else None}
            )
            text = TEXT if workload.opened else MARKER + TEXT
            command = _command(chat_id=str(chat.id), client_id=MARKER, type="text", text=text)
            clients.append(_client(connect, command, chat, number < workload.senders))
    return Load(clients, b'42["ready"', counts_by_list=not workload.opened, rate=workload.rate)


def node_load(chats: list[Chat], workload: Workload) -> Load:
    clients = []
    for chat in chats:
        for number, person in enumerate(chat.members):
            connect = b"40" + orjson.dumps({"user_id": str(person.id)})
            command = _command(chat_id=str(chat.id), text=MARKER + TEXT)
            clients.append(_client(connect, command, chat, number < workload.senders))
    return Load(clients, b"40{", rate=workload.rate)


def _command(**data: str) -> bytes:
    return orjson.dumps(["send_message", data])


def _client(connect: bytes, command: bytes, chat: Chat, sends: bool) -> Client:
    return Client(connect, command, sends=sends, others=len(chat.members) - 1)


def measure_ours(house: House, workload: Workload, seconds: float) -> Figures:
    database = house.make_database("migrated")
    chats = seed.make_chats(workload.chats, workload.members)
    seed.write(database, [member for chat in chats for member in chat.members], chats)
    return _measure(house, house.ours, database, ours_load(chats, workload), seconds)


def measure_node(house: House, workload: Workload, seconds: float) -> Figures:
    database = house.make_database()
    chats = seed.make_chats(workload.chats, workload.members)
    seed.write_for_node(database, chats)
    return _measure(house, house.node, database, node_load(chats, workload), seconds)


def _measure(
    house: House,
    serve: Callable[[str], AbstractContextManager[Server]],
    database: str,
    load: Load,
    seconds: float,
) -> Figures:
    with serve(database) as server:
        generator = Generator(server.port, load)
        try:
            generator.connect()
            generator.idle(SETTLE_SECONDS)
            counts, before, after = generator.run(WARM_SECONDS, seconds, server.usage)
        finally:
            generator.close()
        figures = Figures(counts, *after.since(before), after.memory, server.crashes())
    house.drop_database(database)
    return figures
