"""Pinned messages: every member pins for all."""

import asyncio
from collections import Counter
from typing import Any

from chat_app.database import Database
from chat_app.models.base import LIMITS
from tests.cast import make_messages
from tests.clients import Person, Transport

OWN = ("liked", "reacted")


def shared(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key not in OWN}


async def pinned_of(transport: Transport, person: Person, chat_id: str) -> list[int]:
    answer = await transport.do(person, "list_pinned_messages", chat_id=chat_id)
    return [message["seq"] for message in answer["items"]]


async def test_every_member_pins_and_unpins_for_all(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris, clara)
    sent = [await transport.send(anna, chat["id"]) for _ in range(3)]
    first = await transport.do(boris, "pin_message", chat_id=chat["id"], seq=2)
    assert first == sent[0] | {"version": sent[2]["version"] + 1, "pinned_at": first["pinned_at"]}
    assert first["pinned_at"] > sent[2]["sent_at"]
    await transport.do(clara, "pin_message", chat_id=chat["id"], seq=4)
    last = await transport.do(anna, "pin_message", chat_id=chat["id"], seq=3)
    answer = await transport.do(clara, "list_pinned_messages", chat_id=chat["id"])
    assert [message["seq"] for message in answer["items"]] == [3, 4, 2], "the last pinned first"
    assert answer["items"][0] == shared(last)
    assert answer["version"] == last["version"] and [user["name"] for user in answer["users"]] == ["Anna"]
    await clara.connect()
    screen = (await clara.socket.call("activate_chat", {"chat_id": chat["id"]})).data
    assert screen["pinned"] == answer["items"]
    await transport.do(clara, "unpin_message", chat_id=chat["id"], seq=3)
    again = await transport.do(clara, "pin_message", chat_id=chat["id"], seq=3)
    assert again["pinned_at"] > last["pinned_at"]
    await transport.do(boris, "unpin_message", chat_id=chat["id"], seq=2)
    assert await pinned_of(transport, anna, chat["id"]) == [3, 4]


async def test_a_pin_reaches_open_windows_only(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris, clara)
    await transport.send(boris, chat["id"])
    await transport.do(anna, "like_message", chat_id=chat["id"], seq=2)
    await boris.open(chat["id"])
    for person in (anna, boris, clara):
        await person.forget()
    for operation in ("pin_message", "unpin_message"):
        changed = await transport.do(anna, operation, chat_id=chat["id"], seq=2)
        event = (await boris.received("messages_changed"))[-1]
        assert event["messages"] == [shared(changed)], "nobody gets `liked`"
        assert (event["since"], event["version"]) == (changed["version"] - 1, changed["version"])
    for person in (anna, boris, clara):
        assert await person.received("chats_changed") == []
    entry = await transport.do(clara, "get_chat", chat_id=chat["id"])
    assert entry["updated_at"] == entry["last_message"]["sent_at"] and entry["version"] == changed["version"]


async def test_a_pinned_message_comes_with_its_people_and_its_quote(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris, clara)
    question = await transport.send(clara, chat["id"], "question")
    await transport.send(boris, chat["id"], "answer", reply_to=question["seq"])
    await transport.do(boris, "leave_chat", chat_id=chat["id"])
    await anna.open(chat["id"])
    await transport.do(clara, "pin_message", chat_id=chat["id"], seq=3)
    (event,) = await anna.received("messages_changed")
    assert sorted(user["name"] for user in event["users"]) == ["Boris", "Clara"]
    assert event["replied"] == [shared(question)]


async def test_who_does_not_see_a_message_does_not_see_that_it_is_pinned(
    transport: Transport, anna: Person, boris: Person, clara: Person, outsider: Person
) -> None:
    chat = await transport.create_group(anna, boris)
    await transport.send(boris, chat["id"])
    await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
    await transport.send(anna, chat["id"])
    await clara.open(chat["id"])
    await clara.forget()
    for seq in (2, 4):
        await transport.do(boris, "pin_message", chat_id=chat["id"], seq=seq)
    hidden, seen = await clara.received("messages_changed")
    assert (hidden["messages"], hidden["users"], hidden["replied"]) == ([], [], [])
    assert [message["seq"] for message in seen["messages"]] == [4]
    assert await pinned_of(transport, clara, chat["id"]) == [4]
    assert await pinned_of(transport, anna, chat["id"]) == [4, 2]
    screen = (await clara.socket.call("activate_chat", {"chat_id": chat["id"]})).data
    assert [message["seq"] for message in screen["pinned"]] == [4]
    await transport.do(clara, "clear_chat", chat_id=chat["id"])
    assert await pinned_of(transport, clara, chat["id"]) == []
    assert (await clara.socket.call("activate_chat", {"chat_id": chat["id"]})).data["pinned"] == []
    assert await pinned_of(transport, boris, chat["id"]) == [4, 2]
    for operation in ("pin_message", "unpin_message"):
        answer = await transport.call(clara, operation, chat_id=chat["id"], seq=2)
        assert (answer.status, answer.code) == (404, "message_not_found")
        answer = await transport.call(outsider, operation, chat_id=chat["id"], seq=2)
        assert (answer.status, answer.code) == (404, "chat_not_found")
    answer = await transport.call(outsider, "list_pinned_messages", chat_id=chat["id"])
    assert (answer.status, answer.code) == (404, "chat_not_found")


async def test_the_same_again_changes_nothing(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.open_private_chat(anna, boris)
    sent = await transport.send(anna, chat["id"])
    await boris.open(chat["id"])
    await boris.forget()
    assert await transport.do(anna, "unpin_message", chat_id=chat["id"], seq=1) == sent
    once = await transport.do(anna, "pin_message", chat_id=chat["id"], seq=1)
    assert await transport.do(boris, "pin_message", chat_id=chat["id"], seq=1) == once
    assert len(await boris.received("messages_changed")) == 1


async def test_system_messages_and_tombstones_are_not_pinned(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.create_group(anna, boris)
    for _ in range(2):
        await transport.send(anna, chat["id"])
    await transport.do(boris, "pin_message", chat_id=chat["id"], seq=2)
    await transport.do(anna, "delete_message", chat_id=chat["id"], seq=2)
    assert (await transport.do(boris, "get_message", chat_id=chat["id"], seq=2))["pinned_at"] is None
    assert await pinned_of(transport, boris, chat["id"]) == []
    for seq, refusal in ((1, (422, "invalid_input")), (2, (409, "message_deleted"))):
        answer = await transport.call(boris, "pin_message", chat_id=chat["id"], seq=seq)
        assert (answer.status, answer.code) == refusal
        assert (await transport.call(boris, "unpin_message", chat_id=chat["id"], seq=seq)).ok


async def test_fifty_parallel_clients_pin_fifty_at_most_all_counted(
    transport: Transport, database: Database, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris)
    most = LIMITS["pinned_messages"]
    assert most == 50
    await make_messages(database, anna, chat["id"], most + 2)
    await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
    await transport.send(anna, chat["id"])
    seen = most + 5
    await boris.connect()
    for seq in (2, 3):
        await transport.do(anna, "pin_message", chat_id=chat["id"], seq=seq)
    calls = [transport.call((anna, boris)[seq % 2], "pin_message", chat_id=chat["id"], seq=seq) for seq in range(4, 54)]
    answers = await asyncio.gather(*calls)
    assert Counter(answer.code for answer in answers) == {None: 48, "too_many_pinned": 2}
    assert {answer.status for answer in answers if not answer.ok} == {409}
    pinned = await transport.do(anna, "list_pinned_messages", chat_id=chat["id"])
    assert len(pinned["items"]) == most
    times = [message["pinned_at"] for message in pinned["items"]]
    assert times == sorted(times, reverse=True) and len(set(times)) == most
    answer = await transport.call(clara, "pin_message", chat_id=chat["id"], seq=seen)
    assert (answer.status, answer.code) == (409, "too_many_pinned"), "those that Clara does not see count too"
    again = await transport.call(boris, "pin_message", chat_id=chat["id"], seq=2)
    assert again.ok, "it is pinned already"
    await transport.do(boris, "unpin_message", chat_id=chat["id"], seq=2)
    assert (await transport.call(clara, "pin_message", chat_id=chat["id"], seq=seen)).ok
