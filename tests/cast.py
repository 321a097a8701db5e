"""The users and chats on which every kind of change is tested, and their observers."""

import asyncio
from copy import deepcopy
from typing import Any
from uuid import UUID, uuid4

from pydantic import TypeAdapter
from sqlalchemy import text

from chat_app.crud import chats
from chat_app.crud.messages import Draft, Sent, send_messages
from chat_app.database import Database
from chat_app.models.messages import MessageCreate, MessageRead
from chat_app.models.sessions import Actor
from tests.client_model import ClientModel, Json
from tests.clients import Person, SocketTransport
from tests.factories import AttachmentFactory, ChatFactory, MembershipFactory, MessageFactory
from tests.media import pictures
from tests.observers import Observer, check_equal, read_anew

Call = tuple[str, str, dict[str, Any]]

MESSAGE_CREATE: TypeAdapter[MessageCreate] = TypeAdapter(MessageCreate)
PDF = "application/pdf"

# Seqs of messages in the group.
ANNAS_OLDEST, BORIS_OLDER, WITH_CAPTION, ANNAS_LATER, NEWEST = 2, 3, 4, 6, 7


def message(**fields: Any) -> dict[str, Any]:
    """The arguments of a new message."""
    return {"client_id": str(uuid4()), **fields}


def draft(actor: Actor, chat_id: UUID, **fields: Any) -> Draft:
    """A draft of type text unless `fields` has another type."""
    return Draft(actor, chat_id, MESSAGE_CREATE.validate_python(message(type="text", text="hello") | fields))


def sent_message(sent: Sent) -> MessageRead:
    """The message as its sender gets it."""
    return MessageRead.model_validate_json(sent.data)


async def make_messages(database: Database, person: Person, chat_id: str, number: int) -> None:
    """Send so many texts in one batch."""
    actor = Actor(UUID(person.id), person.session_id)
    async with database.transaction() as db:
        await send_messages(db, [draft(actor, UUID(chat_id)) for _ in range(number)])


class Cast:
    """The users of each case, and the chats that exist before it.

    Anna is the creator of the group. Boris has it open and Vera has not; both are founders. Gleb joined later, has it
    open and can't see earlier messages. Dina isn't a member. All are in another group, created last.
    """

    def __init__(self, people: dict[str, Person]) -> None:
        self.people = people
        self.chats: dict[str, str] = {}
        self.observers: list[Observer] = []

    async def prepare(self, database: Database) -> None:
        """Make the chats with messages at the seqs that the cases name."""
        anna, boris, vera, gleb = map(self.actor, ("Anna", "Boris", "Vera", "Gleb"))
        async with database.transaction() as db:
            private = await ChatFactory.make(db, creator=anna, members=[boris], title=None)
            group = await ChatFactory.make(db, creator=anna, members=[boris, vera], title="All")
            file = await AttachmentFactory.make(db, owner=anna)
            await MessageFactory.make(db, chat=private, sender_id=boris.id)
            await MessageFactory.make(db, chat=group)
            await MessageFactory.make(db, chat=group, sender_id=boris.id)
            await MessageFactory.make(db, chat=group, type="file", attachment_id=file.id, text="look")
            await MembershipFactory.make(db, chat=group, user=gleb)
            await MessageFactory.make(db, chat=group)
            await MessageFactory.make(db, chat=group, sender_id=boris.id)
            assert (await chats.get_chat(db, anna, group.id)).message_count == NEWEST
            others = [self.actor(name) for name in self.people if name != "Anna"]
            lately = await ChatFactory.make(db, creator=anna, members=others, title="Lately")
            await MessageFactory.make(db, chat=lately, sender_id=vera.id)
        self.chats = {"group": str(group.id), "private": str(private.id), "lately": str(lately.id)}

    def actor(self, name: str) -> Actor:
        return Actor(UUID(self.people[name].id), self.people[name].session_id)

    async def call(self, person: str, operation: str, **arguments: Any) -> Any:
        """Call an operation that succeeds over Socket.IO. Returns its data."""
        return await SocketTransport().do(self.people[person], operation, **await self.arguments(person, arguments))

    async def arguments(self, person: str, values: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a case as a transport takes them."""
        found: dict[str, Any] = {}
        for name, value in values.items():
            if name == "attachment_id":
                found[name] = await self._upload(self.people[person], value)
            elif name == "from_chat_id":
                found[name] = self.chats[value]
            elif name.endswith("_ids"):
                found[name] = [self.people[each].id for each in value]
            else:
                found[name] = self.people[value].id if name == "user_id" else value
        return found

    async def _upload(self, person: Person, content_type: str) -> str:
        content = pictures.encoded(pictures.corners(), "PNG") if content_type == "image/png" else b"something"
        file = {"file": ("a file", content, content_type)}
        response = await person.http.post("/api/v1/attachments", files=file)
        assert response.status_code == 201, response.text
        attachment_id: str = response.json()["id"]
        return attachment_id

    async def look(self, database: Database, chat_id: str | None) -> None:
        """Read everybody's snapshot. All changes of the two chats are an hour old by then. Some users open a chat."""
        await make_older(database, [self.chats[name] for name in ("group", "private")])
        await asyncio.gather(
            self._look("Anna", chat_id, connections=2),
            self._look("Boris", chat_id),
            self._look("Vera", None),
            self._look("Gleb", chat_id),
            self._look("Dina", None),
        )
        await self.settle()

    async def _look(self, name: str, chat_id: str | None, *, connections: int = 1) -> None:
        person = self.people[name]
        for number in range(connections):
            socket = person.sockets[number] if number < len(person.sockets) else await person.connect()
            observer = await Observer(person, socket).start()
            if chat_id and chat_id in observer.model.entries:
                await observer.open(chat_id)
            self.observers.append(observer)

    def twins(self) -> dict[str, ClientModel]:
        """Copies of the model of everybody's first connection, to be kept while it is disconnected."""
        return {name: deepcopy(self.observers_of(person)[0].model) for name, person in self.people.items()}

    def observers_of(self, person: Person) -> list[Observer]:
        return [observer for observer in self.observers if observer.person is person]

    async def settle(self) -> set[str]:
        """Wait until all events have arrived. Returns the names of the users who received any."""
        received = await asyncio.gather(*(observer.settle() for observer in self.observers))
        return {observer.person.name for observer, names in zip(self.observers, received, strict=True) if names}

    async def check(self) -> None:
        """Compare everybody's snapshot and events with a fresh snapshot."""
        await asyncio.gather(*(self._check(self.observers_of(person)) for person in self.people.values()))

    async def _check(self, observers: list[Observer]) -> None:
        first = observers[0]
        fresh = await read_anew(first.socket, first.person.id, first.chat_id)
        for observer in observers:
            check_equal(observer.name, observer.model, fresh)

    async def come_back(self, twins: dict[str, ClientModel], *, limit: int) -> list[list[Json]]:
        """Reconnect the users of the twins, let them catch up, and compare their models with a fresh snapshot.

        Returns the pages of changes that each of them read.
        """
        return await asyncio.gather(*(self._come_back(self.people[name], twins[name], limit) for name in twins))

    async def _come_back(self, person: Person, twin: ClientModel, limit: int) -> list[Json]:
        chat_id = twin.open_chat_id
        socket = await person.connect(active_chat_id=chat_id)
        pages = await Observer(person, socket).come_back(twin, limit)
        fresh = await read_anew(socket, person.id, chat_id)
        check_equal(f"{person.name} after reconnecting", twin, fresh)
        assert twin.sync == fresh.sync == socket.named("ready")[0]["sync"]
        return pages


async def make_older(database: Database, chat_ids: list[str]) -> None:
    """Move all changes of these chats an hour into the past. Catching up always looks back a minute from the latest
    change, so it then finds only newer changes in them.
    """
    async with database.transaction() as db:
        connection = await db.connection()
        for table, column in (("chat", "id"), ("membership", "chat_id")):
            older = f"UPDATE {table} SET changed_at = changed_at - interval '1 hour' WHERE {column} = ANY(:ids)"
            await connection.execute(text(older), {"ids": chat_ids})
