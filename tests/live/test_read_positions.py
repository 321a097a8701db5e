"""Read positions of members."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from chat_app.database import Database
from tests.clients import Person, SocketTransport, Transport

OLD_MESSAGE = """
    INSERT INTO message (chat_id, seq, version, sender_id, client_id, type, text, like_count, sent_at)
    VALUES (:chat, 3, 3, :sender, gen_random_uuid(), 'text', 'hello', 0, now())
"""
OLD_COUNT = "UPDATE chat SET message_count = 3, version = 3, changed_at = now() WHERE id = :chat AND id != :sender"


def position(chat: dict[str, Any]) -> tuple[int, int]:
    """The own read position and unread count."""
    return chat["mine"]["last_read_seq"], chat["mine"]["unread_count"]


async def test_a_read_position_moves_forward_only(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.open_private_chat(anna, boris)
    for _ in range(5):
        await transport.send(anna, chat["id"])
    assert position(await transport.do(boris, "get_chat", chat_id=chat["id"])) == (0, 5)
    for seq, after in ((3, (3, 2)), (1, (3, 2)), (0, (3, 2)), (4, (4, 1))):
        answer = await transport.call(boris, "mark_read", chat_id=chat["id"], seq=seq)
        assert answer.status == 200 and position(answer.data) == after
    assert position(await transport.do(boris, "get_chat", chat_id=chat["id"])) == (4, 1)


async def test_a_seq_past_the_newest_means_the_newest(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.open_private_chat(anna, boris)
    await transport.send(anna, chat["id"])
    assert position(await transport.do(boris, "mark_read", chat_id=chat["id"], seq=2**53 - 1)) == (1, 0)
    await transport.send(anna, chat["id"])
    assert position(await transport.do(boris, "get_chat", chat_id=chat["id"])) == (1, 1)


async def test_a_malformed_seq_is_refused(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.open_private_chat(anna, boris)
    for argument in ({"seq": -1}, {"seq": 2**63}, {"seq": "x"}, {"seq": None}, {}, {"seq": 1, "more": 1}):
        answer = await transport.call(anna, "mark_read", chat_id=chat["id"], **argument)
        assert (answer.status, answer.code) == (422, "invalid_input"), argument


async def test_sending_moves_the_own_read_position(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.open_private_chat(anna, boris)
    for _ in range(3):
        await transport.send(anna, chat["id"])
    before = (await transport.do(boris, "get_chat", chat_id=chat["id"]))["mine"]
    await transport.send(boris, chat["id"])
    after = await transport.do(boris, "get_chat", chat_id=chat["id"])
    assert position(after) == (4, 0) and after["mine"]["version"] == before["version"] + 1
    assert position(await transport.do(anna, "get_chat", chat_id=chat["id"])) == (3, 1)


async def test_changing_members_moves_the_own_read_position(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris)
    await transport.do(boris, "add_members", chat_id=chat["id"], user_ids=[clara.id])
    assert position(await transport.do(boris, "get_chat", chat_id=chat["id"])) == (2, 0)
    await transport.do(anna, "remove_member", chat_id=chat["id"], user_id=clara.id)
    assert position(await transport.do(anna, "get_chat", chat_id=chat["id"])) == (3, 0)
    assert position(await transport.do(boris, "get_chat", chat_id=chat["id"])) == (2, 0)


async def test_a_system_message_does_not_make_a_read_chat_unread(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris)
    sent = await transport.send(anna, chat["id"])
    read = await transport.do(boris, "mark_read", chat_id=chat["id"], seq=sent["seq"])
    assert read["last_user_seq"] == sent["seq"]
    await boris.forget()
    await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
    await transport.do(anna, "remove_member", chat_id=chat["id"], user_id=clara.id)
    after = await transport.do(boris, "get_chat", chat_id=chat["id"])
    assert (after["message_count"], after["last_user_seq"]) == (4, 2)
    assert after["mine"] == read["mine"] | {"others_read_seq": 4}, "no membership is written for its readers"
    for event in await boris.received("chats_changed"):
        assert event["mine"] == [] and event["chats"][0]["last_user_seq"] == 2
    await transport.send(anna, chat["id"])
    after = await transport.do(boris, "get_chat", chat_id=chat["id"])
    assert after["last_user_seq"] == 5 and position(after) == (2, 3), "it counts the system messages before it"


async def test_a_deleted_message_is_still_the_newest_of_a_user(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris, clara)
    for _ in range(2):
        sent = await transport.send(anna, chat["id"])
    await transport.do(anna, "delete_message", chat_id=chat["id"], seq=sent["seq"])
    await transport.do(clara, "leave_chat", chat_id=chat["id"])
    after = await transport.do(boris, "get_chat", chat_id=chat["id"])
    assert after["last_user_seq"] == sent["seq"] and position(after) == (0, 4)


async def test_a_message_of_a_node_of_the_former_release_is_unread(
    database: Database, anna: Person, boris: Person, clara: Person
) -> None:
    """It does not know the column `last_user_seq`, and leaves it as it is."""
    socket = SocketTransport()
    chat = await socket.create_group(anna, boris, clara)
    await socket.do(clara, "leave_chat", chat_id=chat["id"])
    await socket.do(boris, "mark_read", chat_id=chat["id"], seq=2)
    async with database.engine.begin() as connection:
        for statement in (OLD_MESSAGE, OLD_COUNT):
            await connection.execute(text(statement), {"chat": chat["id"], "sender": anna.id})
    after = await socket.do(boris, "get_chat", chat_id=chat["id"])
    assert after["last_user_seq"] == 3 and position(after) == (2, 1)


@pytest.mark.parametrize("share_history", [False, True])
async def test_joining_again_moves_the_position_to_the_message_that_announces_it(
    transport: Transport, anna: Person, boris: Person, clara: Person, share_history: bool
) -> None:
    chat = await transport.create_group(anna, boris)
    await transport.send(anna, chat["id"])
    adding = {"chat_id": chat["id"], "user_ids": [clara.id], "share_history": share_history}
    for _ in range(2):
        before = (await transport.send(anna, chat["id"]))["seq"]
        await clara.forget()
        joined = await transport.do(anna, "add_members", **adding)
        assert position(await transport.do(clara, "get_chat", chat_id=chat["id"])) == (joined["message_count"], 0)
        (event,) = await clara.received("chats_changed")
        assert [mine["last_read_seq"] for mine in event["mine"]] == [before + 1]
        await transport.send(anna, chat["id"])
        assert position(await transport.do(clara, "get_chat", chat_id=chat["id"])) == (before + 1, 1)
        await transport.do(clara, "mark_read", chat_id=chat["id"], seq=before + 2)
        await transport.do(clara, "leave_chat", chat_id=chat["id"])


async def test_others_read_seq_is_the_greatest_position_of_the_others(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris, clara)
    for _ in range(3):
        await transport.send(anna, chat["id"])

    async def others_read() -> list[int]:
        people = (anna, boris, clara)
        return [(await transport.do(one, "get_chat", chat_id=chat["id"]))["mine"]["others_read_seq"] for one in people]

    assert await others_read() == [0, 4, 4]
    await transport.do(boris, "mark_read", chat_id=chat["id"], seq=3)
    assert await others_read() == [3, 4, 4]
    await transport.do(clara, "mark_read", chat_id=chat["id"], seq=2)
    assert await others_read() == [3, 4, 4]
    members = (await transport.do(anna, "list_members", chat_id=chat["id"]))["items"]
    assert {member["user_id"]: member["last_read_seq"] for member in members} == {anna.id: 4, boris.id: 3, clara.id: 2}


async def test_own_connections_and_open_windows_get_a_new_position(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris, clara)
    await anna.open(chat["id"])
    for person in (anna, boris, clara):
        await person.forget()
    second = await boris.connect()
    read = await transport.do(boris, "mark_read", chat_id=chat["id"], seq=1)
    await boris.settle()
    for socket in (boris.socket, second):
        (event,) = socket.named("chats_changed")
        assert event["mine"] == [{"chat_id": chat["id"], **read["mine"]}]
        assert event["chats"] == event["removed"] == event["users"] == []
        assert socket.named("read_changed") == []
    (event,) = await anna.received("read_changed")
    assert event == {"chat_id": chat["id"], "user_id": boris.id, "last_read_seq": 1}
    assert await anna.received("chats_changed") == await anna.received("messages_changed") == []
    assert await clara.received_all() == []


async def test_a_read_position_takes_no_version_of_the_chat(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.create_group(anna, boris)
    before = await transport.do(boris, "get_chat", chat_id=chat["id"])
    read = await transport.do(boris, "mark_read", chat_id=chat["id"], seq=1)
    assert read["version"] == chat["version"] and read["updated_at"] == chat["updated_at"]
    assert read["mine"]["version"] == before["mine"]["version"] + 1


async def test_an_unchanged_position_causes_no_event(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.create_group(anna, boris)
    read = await transport.do(boris, "mark_read", chat_id=chat["id"], seq=1)
    await anna.open(chat["id"])
    for person in (anna, boris):
        await person.forget()
    assert await transport.do(boris, "mark_read", chat_id=chat["id"], seq=1) == read
    for person in (anna, boris):
        assert await person.received_all() == []


async def test_the_greatest_of_simultaneous_positions_wins(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.open_private_chat(anna, boris)
    for _ in range(6):
        await transport.send(anna, chat["id"])
    sockets = [await boris.connect() for _ in range(6)]
    await asyncio.gather(
        *(socket.call("mark_read", {"chat_id": chat["id"], "seq": 6 - n}) for n, socket in enumerate(sockets)),
        *(transport.call(boris, "mark_read", chat_id=chat["id"], seq=n) for n in range(6)),
    )
    assert position(await transport.do(boris, "get_chat", chat_id=chat["id"])) == (6, 0)
