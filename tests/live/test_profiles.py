"""A new name or picture: a part of the private peers' entries, and at most so many an hour."""

import asyncio
import base64
from uuid import UUID

import pytest
from sqlalchemy import text

from chat_app.crud import users
from chat_app.crud.messages import send_messages
from chat_app.database import Database
from chat_app.models.sessions import Actor
from chat_app.models.users import UserUpdate
from tests.cast import draft
from tests.clients import Person, SocketTransport
from tests.media.pictures import corners, encoded
from tests.operations import wait_for_lock_waiter

SOCKET = SocketTransport()


def actor_of(person: Person) -> Actor:
    return Actor(UUID(person.id), person.session_id)


@pytest.mark.parametrize("change", ["name", "picture"])
async def test_a_new_name_or_picture_is_a_change_of_the_private_peers_entry(
    change: str, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await SOCKET.open_private_chat(anna, boris)
    await SOCKET.create_group(anna, clara)
    before = await SOCKET.do(boris, "list_chats")
    for person in (anna, boris, clara):
        await person.forget()
    if change == "name":
        await anna.http.patch("/api/v1/users/me", json={"name": "Anna Maria", "bio": "and more"})
    else:
        image = base64.b64encode(encoded(corners(), "PNG")).decode()
        await anna.http.put("/api/v1/users/me/avatar", json={"image": image})
    after = await SOCKET.do(boris, "list_chats")
    (entry,) = after["items"]
    assert entry["mine"]["version"] == before["items"][0]["mine"]["version"] + 1
    assert entry["version"] == before["items"][0]["version"] and after["sync"] != before["sync"]
    assert (entry["mine"]["peer"]["name"] == "Anna Maria") == (change == "name")
    assert bool(entry["mine"]["peer"]["avatar"]) == (change == "picture")
    (event,) = await boris.received("chats_changed")
    assert event["mine"] == [{"chat_id": chat["id"], **entry["mine"]}] and event["chats"] == []
    assert await anna.received("chats_changed") == await clara.received("chats_changed") == []


async def test_the_same_name_again_is_no_change(anna: Person, boris: Person) -> None:
    await SOCKET.open_private_chat(anna, boris)
    await boris.forget()
    for fields in ({"name": "Anna"}, {"bio": "only this"}, {"username": f"anna_{anna.id[-12:]}"}):
        assert (await anna.http.patch("/api/v1/users/me", json=fields)).status_code == 200
    await anna.http.delete("/api/v1/users/me/avatar")
    assert await boris.received_all() == []


async def test_a_chat_that_is_opened_during_the_change_has_the_new_name(
    database: Database, anna: Person, boris: Person
) -> None:
    await boris.forget()
    async with database.engine.connect() as looking, asyncio.TaskGroup() as tasks:
        async with database.transaction() as db:
            await users.update_me(db, actor_of(anna), UserUpdate(name="Anna Maria"))
            opening = tasks.create_task(SOCKET.open_private_chat(boris, anna))
            await wait_for_lock_waiter(looking)
        chat = await opening
    assert chat["mine"]["peer"]["name"] == "Anna Maria"
    assert await SOCKET.do(boris, "get_chat", chat_id=chat["id"]) == chat


async def test_a_change_and_messages_of_several_peers_do_not_deadlock(
    database: Database, anna: Person, boris: Person, clara: Person
) -> None:
    """Sends write to memberships in the order in which the change locks them."""
    opened = {(await SOCKET.open_private_chat(anna, peer))["id"]: peer for peer in (boris, clara)}
    first, second = sorted(opened)
    drafts = [draft(actor_of(opened[chat_id]), UUID(chat_id)) for chat_id in (second, first)]

    async def rename() -> None:
        async with database.transaction() as db:
            await users.update_me(db, actor_of(anna), UserUpdate(name="Anna Maria"))

    async def send() -> None:
        async with database.raw_transaction() as db:
            await send_messages(db, drafts)

    hold = text("SELECT FROM membership WHERE chat_id = :id AND user_id != :user FOR UPDATE")
    connect = database.engine.connect
    async with connect() as looking, asyncio.TaskGroup() as tasks, connect() as holding:
        await holding.execute(hold, {"id": first, "user": anna.id})
        tasks.create_task(rename())
        await wait_for_lock_waiter(looking)
        tasks.create_task(send())
        await wait_for_lock_waiter(looking, 2)
    for chat_id in opened:
        assert (await SOCKET.do(anna, "get_chat", chat_id=chat_id))["message_count"] == 1
