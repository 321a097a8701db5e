"""Demo data for development: the same people, phones, chats and texts on every machine, written once."""

from typing import Any, NamedTuple
from uuid import UUID, uuid5

from pydantic import TypeAdapter
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from chat_app.auth import hash_password
from chat_app.crud.chats import create_group, open_private_chat, pin_chat, rename_chat
from chat_app.crud.likes import like_message
from chat_app.crud.messages import Draft, one, send_messages
from chat_app.database import Database, Transaction
from chat_app.models import User
from chat_app.models.chats import GroupCreate
from chat_app.models.messages import MessageCreate
from chat_app.models.sessions import Actor

NAMESPACE = UUID("c4a7d0de-0000-4000-8000-000000000001")
DEMO_PASSWORD = "demo-password"


class DemoUser(NamedTuple):
    name: str
    phone: str
    username: str
    bio: str


class Line(NamedTuple):
    """What somebody says; a text, or the fields of another type of message."""

    username: str
    content: str | dict[str, Any]
    reply_to: int | None = None
    liked_by: tuple[str, ...] = ()


DEMO_USERS = (
    DemoUser("Anna Ivanova", "+79000000001", "anna", "Product, coffee, mountains."),
    DemoUser("Boris Petrov", "+79000000002", "boris", "Front end. Ask me about CSS."),
    DemoUser("Clara Smirnova", "+79000000003", "clara", "Design."),
    DemoUser("David Kim", "+79000000004", "david", "Back end, bicycles."),
    DemoUser("Елена Орлова", "+79000000005", "elena", "Пишу тексты и тесты."),
    DemoUser("Farid Aliyev", "+79000000006", "farid", ""),
)

PRIVATE_CHATS = {
    ("anna", "boris"): [
        Line("anna", "Hi Boris! Does the chat list update by itself already?"),
        Line("boris", "Hi! Yes: every change comes as a chats_changed event. 🎉", 1, ("anna",)),
        Line("anna", "Wonderful. Then let us show it to the others tomorrow."),
        Line("boris", {"type": "contact", "name": "Clara Smirnova", "phone": "+7 900 000-00-03"}),
    ],
    ("anna", "elena"): [
        Line("elena", "Анна, добрый день! Посмотришь тексты для экрана входа?"),
        Line("anna", "Добрый! Сегодня вечером посмотрю.", 1),
    ],
    ("clara", "david"): [Line("clara", "David, which sizes do avatars come in?"), Line("david", "400, 100 and 50.", 1)],
}

# The founder comes first. The first message of a group is the one that says so: these begin with seq 2.
GROUPS = {
    ("Project Aurora", ("anna", "boris", "clara", "david")): [
        Line("anna", "Welcome! This is where we plan the release.", None, ("boris", "clara", "david")),
        Line("clara", "The new icons are ready."),
        Line("david", "Great, I will deploy them tonight.", 3, ("clara",)),
        Line("boris", "Found a bug: long titles don't wrap on small screens."),
        Line("clara", "I'll fix the layout.", 5),
    ],
    ("Weekend hike", ("david", "anna", "elena", "farid")): [
        Line("david", "Saturday, 9:00, at the station?"),
        Line("farid", "I'm in!", 2, ("david", "anna")),
        Line("elena", {"type": "location", "latitude": 43.5855, "longitude": 39.7231, "text": "We meet here"}),
        Line("anna", "See you there 🏔️", 4),
    ],
}

_MESSAGE: TypeAdapter[MessageCreate] = TypeAdapter(MessageCreate)


def demo_id(name: str) -> UUID:
    """The id of a demo user, chat or message, the same everywhere."""
    return uuid5(NAMESPACE, name)


def _actor(username: str) -> Actor:
    return Actor(id=demo_id(username), session_id=demo_id(username))


async def seed(database: Database) -> bool:
    """Write the demo data, all of it or nothing. False, and nothing is done, where a demo phone is registered."""
    try:
        async with database.transaction() as db:
            phones = [user.phone for user in DEMO_USERS]
            if (await db.exec(select(User.id).where(col(User.phone).in_(phones)).limit(1))).first():
                return False
            await _add_users(db)
            await _add_chats(db)
    except IntegrityError:
        return False  # another process was faster
    return True


async def _add_users(db: Transaction) -> None:
    hashed_password = await hash_password(DEMO_PASSWORD)
    for user in DEMO_USERS:
        row = User(id=demo_id(user.username), hashed_password=hashed_password, is_verified=True, **user._asdict())
        db.add(row)
    await db.flush()


async def _add_chats(db: Transaction) -> None:
    for (opener, peer), lines in PRIVATE_CHATS.items():
        chat_id = demo_id(f"{opener} and {peer}")
        await open_private_chat(db, _actor(opener), demo_id(peer), chat_id=chat_id)
        await _say(db, chat_id, lines)
    for (title, (founder, *others)), lines in GROUPS.items():
        chat_id = demo_id(title)
        group = GroupCreate(title=title, member_ids=[demo_id(username) for username in others], client_id=chat_id)
        await create_group(db, _actor(founder), group, chat_id=chat_id)
        await _say(db, chat_id, lines)
    await pin_chat(db, _actor("anna"), demo_id("Project Aurora"))
    await rename_chat(db, _actor("anna"), demo_id("Weekend hike"), "Mountains!")


async def _say(db: Transaction, chat_id: UUID, lines: list[Line]) -> None:
    for number, line in enumerate(lines):
        content = {"type": "text", "text": line.content} if isinstance(line.content, str) else line.content
        client_id = demo_id(f"{chat_id} {number}")
        data = _MESSAGE.validate_python({**content, "client_id": client_id, "reply_to": line.reply_to})
        sent = one(await send_messages(db, [Draft(_actor(line.username), chat_id, data)]))
        for username in line.liked_by:
            await like_message(db, _actor(username), chat_id, sent.message.seq)
