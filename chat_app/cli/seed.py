"""Writes the demo data of demo.toml: for development, once, and the same on every machine.

The factories of the tests write by `add_user`, `add_chat` and `add_message` too.
"""

import tomllib
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from pydantic import TypeAdapter

from chat_app.auth import hash_password
from chat_app.crud.chats import create_group, open_private_chat, pin_chat
from chat_app.crud.groups import set_creator, update_group
from chat_app.crud.likes import like_message
from chat_app.crud.messages import Draft, one, send_messages
from chat_app.crud.mine import update_mine
from chat_app.crud.pins import pin_message
from chat_app.crud.reactions import react
from chat_app.database import Database, Transaction
from chat_app.models import User
from chat_app.models.base import new_id
from chat_app.models.chats import ChatRead, ChatUpdate, GroupCreate
from chat_app.models.messages import MessageCreate, MessageRead
from chat_app.models.sessions import Actor

NAMESPACE = UUID("c4a7d0de-0000-4000-8000-000000000001")
DEMO = tomllib.loads(Path(__file__).with_name("demo.toml").read_bytes().decode())
DEMO_PASSWORD: str = DEMO["password"]
DEMO_USERS: list[dict[str, Any]] = DEMO["users"]

_MESSAGE: TypeAdapter[MessageCreate] = TypeAdapter(MessageCreate)


def demo_id(name: str) -> UUID:
    """The id of a demo user, chat or message."""
    return uuid5(NAMESPACE, name)


async def seed(database: Database) -> bool:
    """Write all of the demo data in one transaction. Do nothing and return False if a demo phone is registered."""
    async with database.transaction() as db:
        if await db.fetch('SELECT FROM "user" WHERE phone = ANY($1)', [user["phone"] for user in DEMO_USERS]):
            return False
        hashed_password = await hash_password(DEMO_PASSWORD)
        for user in DEMO_USERS:
            await add_user(db, id=demo_id(user["username"]), hashed_password=hashed_password, is_verified=True, **user)
        for chat in (*DEMO["private_chats"], *DEMO["groups"]):
            await _add_conversation(db, **chat)
        await pin_chat(db, _actor(demo_id("anna")), demo_id("Project Aurora"))
        for own in DEMO["own"]:
            await update_mine(db, _actor(demo_id(own["user"])), demo_id(own["chat"]), ChatUpdate(**own["fields"]))
    return True


async def add_user(db: Transaction, **fields: Any) -> User:
    user = User(**fields)
    db.add(user)
    await db.flush()
    return user


async def add_chat(
    db: Transaction, creator_id: UUID, member_ids: list[UUID], title: str | None, chat_id: UUID | None = None
) -> ChatRead:
    """A group; without a title the private chat with the one member."""
    creator = _actor(creator_id)
    if title is None:
        (peer_id,) = member_ids
        return (await open_private_chat(db, creator, peer_id, chat_id=chat_id))[0]
    group = GroupCreate(title=title, member_ids=member_ids, client_id=chat_id)
    return (await create_group(db, creator, group, chat_id=chat_id))[0]


async def add_message(db: Transaction, chat_id: UUID, sender_id: UUID, **fields: Any) -> MessageRead:
    """A message of these input fields; a text unless they have another type."""
    content = _MESSAGE.validate_python({"type": "text", "client_id": new_id(), **fields})
    sent = one(await send_messages(db, [Draft(_actor(sender_id), chat_id, content)]))
    return MessageRead.model_validate_json(sent.data)


def _actor(user_id: UUID) -> Actor:
    return Actor(id=user_id, session_id=user_id)


async def _add_conversation(
    db: Transaction, members: list[str], messages: list[dict[str, Any]], title: str | None = None, **later: str
) -> None:
    chat_id = demo_id(title or " and ".join(members))
    creator_id, *member_ids = map(demo_id, members)
    await add_chat(db, creator_id, member_ids, title, chat_id)
    for number, message in enumerate(messages):
        fields = {"client_id": demo_id(f"{chat_id} {number}"), **message}
        sender_id, fans = demo_id(fields.pop("from")), fields.pop("liked_by", ())
        reactions, is_pinned = fields.pop("reactions", {}), fields.pop("is_pinned", False)
        if "from_chat" in fields:
            fields["from_chat_id"] = demo_id(fields.pop("from_chat"))
        sent = await add_message(db, chat_id, sender_id, **fields)
        for username in fans:
            await like_message(db, _actor(demo_id(username)), chat_id, sent.seq)
        for username, emoji in reactions.items():
            await react(db, _actor(demo_id(username)), chat_id, sent.seq, emoji)
        if is_pinned:
            await pin_message(db, _actor(sender_id), chat_id, sent.seq)
    if later:
        await update_group(db, _actor(creator_id), chat_id, {"description": later["description"]})
        await set_creator(db, _actor(creator_id), chat_id, demo_id(later["handed_to"]))
