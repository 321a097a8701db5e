"""Writes the demo data of demo.toml: for development, once, and the same on every machine."""

import tomllib
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import orjson
from pydantic import TypeAdapter

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
DEMO = tomllib.loads(Path(__file__).with_name("demo.toml").read_bytes().decode())
DEMO_PASSWORD: str = DEMO["password"]
DEMO_USERS: list[dict[str, Any]] = DEMO["users"]

_MESSAGE: TypeAdapter[MessageCreate] = TypeAdapter(MessageCreate)


def demo_id(name: str) -> UUID:
    """The id of a demo user, chat or message."""
    return uuid5(NAMESPACE, name)


def _actor(username: str) -> Actor:
    return Actor(id=demo_id(username), session_id=demo_id(username))


async def seed(database: Database) -> bool:
    """Write all of the demo data in one transaction. Do nothing and return False if a demo phone is registered."""
    async with database.transaction() as db:
        if await db.fetch('SELECT FROM "user" WHERE phone = ANY($1)', [user["phone"] for user in DEMO_USERS]):
            return False
        await _add_users(db)
        await _add_chats(db)
    return True


async def _add_users(db: Transaction) -> None:
    hashed_password = await hash_password(DEMO_PASSWORD)
    for user in DEMO_USERS:
        db.add(User(id=demo_id(user["username"]), hashed_password=hashed_password, is_verified=True, **user))
    await db.flush()


async def _add_chats(db: Transaction) -> None:
    for chat in DEMO["private_chats"]:
        opener, peer = chat["members"]
        chat_id = demo_id(f"{opener} and {peer}")
        await open_private_chat(db, _actor(opener), demo_id(peer), chat_id=chat_id)
        await _send(db, chat_id, chat["messages"])
    for chat in DEMO["groups"]:
        creator, *members = chat["members"]
        chat_id = demo_id(chat["title"])
        group = GroupCreate(title=chat["title"], member_ids=list(map(demo_id, members)), client_id=chat_id)
        await create_group(db, _actor(creator), group, chat_id=chat_id)
        await _send(db, chat_id, chat["messages"])
    await pin_chat(db, _actor("anna"), demo_id("Project Aurora"))
    await rename_chat(db, _actor("anna"), demo_id("Weekend hike"), "Mountains!")


async def _send(db: Transaction, chat_id: UUID, messages: list[dict[str, Any]]) -> None:
    for number, message in enumerate(messages):
        fields = {"type": "text", "client_id": demo_id(f"{chat_id} {number}"), **message}
        sender, fans = _actor(fields.pop("from")), fields.pop("liked_by", ())
        draft = Draft(sender, chat_id, _MESSAGE.validate_python(fields))
        seq = orjson.loads(one(await send_messages(db, [draft])).data)["seq"]
        for username in fans:
            await like_message(db, _actor(username), chat_id, seq)
