"""P14 for a crowd: after random simultaneous changes over both transports, each model equals a fresh snapshot."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any
from uuid import uuid4

from tests.client_model import ClientModel, Entry, Json
from tests.clients import Answer, HttpTransport, Person, SocketTransport, Transport
from tests.observers import Observer, check_equal, read_anew
from tests.service import MakePerson

CHANGES = 150
TASKS = 5

# The relative frequency of each operation.
WEIGHTS = {
    "send_message": 30,
    "edit_message": 14,
    "like_message": 14,
    "unlike_message": 8,
    "delete_message": 6,
    "mark_read": 12,
    "add_members": 10,
    "remove_member": 6,
    "leave_chat": 2,
    "rename_chat": 5,
    "update_mine": 8,
    "clear_chat": 3,
    "pin_chat": 5,
    "unpin_chat": 4,
    "open_private_chat": 3,
    "create_group": 2,
    "delete_chat": 1,
}


class Crowd:
    """Users who do random operations, mostly allowed ones, and connections of theirs that observe."""

    def __init__(self, people: list[Person], transports: list[Transport], seed: int) -> None:
        self.people = people
        self.transports = transports
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        # Sent messages by chat: seq and sender.
        self.sent: dict[str, list[tuple[int, Person]]] = {}
        # By person: a connection without an open chat, whose list names the chats to choose from.
        self.lists: dict[str, Observer] = {}
        self.windows: list[Observer] = []
        self.away: list[tuple[Person, ClientModel]] = []

    async def prepare(self) -> None:
        """Make two groups of all and a private chat. Each user gets a list and two windows with disconnected copies."""
        for person in self.people:
            self.lists[person.id] = await Observer(person, await person.connect(active_chat_id=None)).start()
        for creator in self.people[:2]:
            members = [person.id for person in self.people if person is not creator]
            await self.call(creator, "create_group", title="All", member_ids=members)
        await self.call(self.people[0], "open_private_chat", user_id=self.people[1].id)
        for person in self.people * 3:
            await self.change("send_message", person)
        for person in self.people * 2:
            await self.look(person)
        self.away = [(window.person, deepcopy(window.model)) for window in self.windows]

    async def look(self, person: Person) -> None:
        """Open one more connection, with a chat open."""
        window = await Observer(person, await person.connect(active_chat_id=None)).start()
        self.windows.append(window)
        if entry := self.choose(person):
            await window.open(entry.shared["id"])

    async def run(self) -> None:
        """Do all changes in several tasks, while observers switch between chats."""
        todo = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=CHANGES)
        await asyncio.gather(*(self._change(todo) for _ in range(TASKS)), self._look_around(todo))

    async def _change(self, todo: list[str]) -> None:
        while todo:
            await self.change(todo.pop(), self.random.choice(self.people))

    async def _look_around(self, todo: list[str]) -> None:
        while todo:
            person = self.random.choice(self.people)
            if self.random.random() < 0.1:
                await self.look(person)
            elif self.away and self.random.random() < 0.2:
                await self.come_back(*self.away.pop())
            else:
                window = self.random.choice(self.windows)
                if entry := self.choose(window.person):
                    await window.open(entry.shared["id"])

    async def come_back(self, person: Person, model: ClientModel) -> None:
        """Reconnect a client that was disconnected since the beginning."""
        window = Observer(person, await person.connect(active_chat_id=model.open_chat_id))
        await window.come_back(model, limit=self.random.randint(1, 5))
        self.windows.append(window)

    def choose(self, person: Person, condition: Callable[[Json], bool] = lambda chat: True) -> Entry | None:
        """One of the chats in this person's list."""
        self.lists[person.id].apply()
        entries = [entry for entry in self.lists[person.id].model.entries.values() if condition(entry.shared)]
        return self.random.choice(entries) if entries else None

    async def change(self, operation: str, person: Person) -> None:
        """Try one change, with arguments with which it can succeed."""
        if operation in ("open_private_chat", "create_group"):
            await self.call(person, operation, **self.details(operation))
            return
        is_for_creators = operation in ("remove_member", "delete_chat")
        entry = self.choose(person, lambda chat: not is_for_creators or chat["creator_id"] == person.id)
        if entry is None:
            return
        arguments = {"chat_id": entry.shared["id"]} | self.details(operation)
        if operation in ("edit_message", "delete_message", "like_message", "unlike_message"):
            seq, author = self.random.choice(self.sent.get(entry.shared["id"], [(1, person)])[-5:])
            arguments["seq"] = seq
            person = author if operation in ("edit_message", "delete_message") else person
        await self.call(person, operation, **arguments)

    def details(self, operation: str) -> dict[str, Any]:
        """All arguments but the chat id and the seq."""
        word = self.random.choice(["one", "two", "three"])
        somebody, other = (person.id for person in self.random.sample(self.people, 2))
        arguments: dict[str, dict[str, Any]] = {
            "send_message": {"type": "text", "text": word, "client_id": str(uuid4())} | self.quote(),
            "edit_message": self.random.choice([{"text": word}, {"extra": {word: 1}}]),
            "mark_read": {"seq": self.random.randint(1, 30)},
            "add_members": {"user_ids": [somebody, other], "share_history": self.random.random() < 0.5},
            "remove_member": {"user_id": somebody},
            "rename_chat": {"title": self.random.choice([word, None])},
            "update_mine": self.own(word),
            "clear_chat": {"hide": self.random.random() < 0.5},
            "open_private_chat": {"user_id": somebody},
            "create_group": {"title": word, "member_ids": [somebody, other]},
        }
        return arguments.get(operation, {})

    def own(self, word: str) -> Json:
        """A field of the own part, set or taken back."""
        draft = {"text": word} | self.quote()
        field, value = self.random.choice(
            [("muted_until", "2100-01-01T00:00:00Z"), ("archived", True), ("marked_unread", True), ("draft", draft)]
        )
        return {field: self.random.choice([value, None])}

    def quote(self) -> dict[str, int]:
        """Sometimes another message, which may not exist for the sender."""
        return {"reply_to": self.random.randint(1, 20)} if self.random.random() < 0.3 else {}

    async def call(self, person: Person, operation: str, **arguments: Any) -> None:
        answer = await self.random.choice(self.transports).call(person, operation, **arguments)
        assert answer.status < 500, f"{operation} {arguments}: {answer}"
        if answer.ok:
            self.done[operation] += 1
            self._use(person, operation, answer)

    def _use(self, person: Person, operation: str, answer: Answer) -> None:
        """Merge the answer into some models and not into others, which must make no difference."""
        if operation == "send_message":
            self.sent.setdefault(answer.data["chat_id"], []).append((answer.data["seq"], person))
        for observer in [*self.windows, self.lists[person.id]]:
            if observer.person is person and answer.data and self.random.random() < 0.5:
                merge = observer.model.read_chat if "mine" in answer.data else observer.model.read_message
                merge(answer.data)


async def test_all_users_see_the_same_after_simultaneous_changes(
    make_person: MakePerson, openapi: dict[str, Any]
) -> None:
    seed = random.getrandbits(32)
    people = [await make_person(name, connected=True) for name in ("Anna", "Boris", "Vera", "Gleb")]
    crowd = Crowd(people, [HttpTransport(openapi), SocketTransport()], seed)
    with noting(f"seed {seed}"):
        await crowd.prepare()

        await crowd.run()

        assert crowd.done.total() > CHANGES / 2, crowd.done
        assert sum(window.model.window is not None for window in crowd.windows) > len(people)
        for person, model in crowd.away:
            await crowd.come_back(person, model)
        for observer in [*crowd.lists.values(), *crowd.windows]:
            await observer.settle()
            fresh = await read_anew(observer.socket, observer.person.id, observer.model.open_chat_id)
            check_equal(observer.name, observer.model, fresh)


@contextmanager
def noting(note: str) -> Iterator[None]:
    """Add a note to a failure, so that it can be repeated."""
    try:
        yield
    except BaseException as error:
        error.add_note(note)
        raise
