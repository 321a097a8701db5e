"""What the clients of a run know together, and the choice of one of them: what a part has to work with."""

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

from tests.chaos.calls import Answer, Person
from tests.chaos.clients import Client
from tests.chaos.history import Json
from tests.chaos.nodes import Node
from tests.client_model import Entry

# Operations that an earlier version lacks.
NEWEST = {"update_mine", "clear_chat"}


class World:
    """What all clients of a run know together."""

    def __init__(self, people: list[Person], nodes: list[Node]) -> None:
        self.people, self.nodes = people, nodes
        self.chats: list[str] = []
        # By chat: the latest messages of people, (seq, sender, client_id).
        self.recent: dict[str, deque[tuple[int, str, str]]] = defaultdict(lambda: deque(maxlen=30))
        self.members: dict[str, set[str]] = defaultdict(set)
        # By group: the founders who never left. Only they are sure to see all of it, so one of them is its creator:
        # the checker knows a chat from what somebody can read of it at the end.
        self.founders: dict[str, set[str]] = defaultdict(set)
        # By phone: the last code that was sent.
        self.codes: dict[str, str] = {}
        self.phones = iter(range(10**6))
        self.clients: list[Client] = []
        # How many messages a client sends at once; 0: a few, now and then.
        self.burst = 0
        self.is_over = False
        # Whether an earlier version takes part, which does not know the newest types and fields.
        self.has_earlier = False

    def new_phone(self) -> str:
        return f"+7999{next(self.phones):07d}"


@dataclass
class Turn:
    """One choice of one client: who, over which transport, with which luck."""

    world: World
    client: Client
    random: Random
    by_socket: bool

    def entry(self, *, mine: bool = False, group: bool = False) -> Entry | None:
        """One of the client's chats; `mine`: one that they created."""
        me = self.client.person.id
        found = [
            entry
            for entry in self.client.model.entries.values()
            if (not mine or entry.shared["creator_id"] == me) and (not group or entry.shared["type"] == "group")
        ]
        return self.random.choice(found) if found else None

    def chat_id(self) -> str | None:
        """A chat of the client's, mostly; else one that does not exist for them."""
        if self.world.chats and self.random.random() < 0.03:
            return self.random.choice(self.world.chats)
        entry = self.entry()
        return entry.shared["id"] if entry else None

    def message(self, *, own: bool) -> Json | None:
        """A late message, one's own or anybody's."""
        entry = self.entry()
        me = self.client.person.id
        recent = self.world.recent[entry.shared["id"]] if entry else ()
        found = [seq for seq, sender, _ in recent if not own or sender == me or self.random.random() < 0.03]
        return {"chat_id": entry.shared["id"], "seq": self.random.choice(found)} if entry and found else None

    def somebody(self) -> Person:
        return self.random.choice(self.world.people)

    def new_id(self) -> str:
        return str(UUID(int=self.random.getrandbits(128), version=4))

    async def do(self, name: str, args: Json | None) -> Answer | None:
        if args is None or (self.world.has_earlier and name in NEWEST):
            return None
        return await self.client.do(name, args, by_socket=self.by_socket)


Part = Callable[[Turn], Awaitable[Any]]
PARTS: dict[str, tuple[float, Part]] = {}


def part(weight: float) -> Callable[[Part], Part]:
    """A part for the operation that the function is named after; how often, compared with the others."""

    def register(function: Part) -> Part:
        PARTS[function.__name__] = (weight, function)  # type: ignore[attr-defined]
        return function

    return register
