"""Private chats: exactly two people, and one chat for each pair."""

import asyncio
from uuid import uuid4

import pytest

from tests.clients import Person, Transport

CHAT = {
    "id",
    "type",
    "title",
    "avatar",
    "creator_id",
    "member_count",
    "message_count",
    "last_message",
    "last_user_seq",
    "version",
    "created_at",
    "updated_at",
    "mine",
}
MINE = {
    "version",
    "title",
    "peer",
    "pinned_at",
    "last_read_seq",
    "others_read_seq",
    "visible_from_seq",
    "unread_count",
    "muted_until",
    "archived_at",
    "marked_unread",
    "draft",
    "hidden",
}


async def test_opening_a_private_chat_makes_an_empty_chat_of_two(
    transport: Transport, anna: Person, boris: Person
) -> None:
    answer = await transport.call(anna, "open_private_chat", user_id=boris.id)
    assert answer.status == 201
    chat = answer.data
    assert set(chat) == CHAT and set(chat["mine"]) == MINE
    assert (chat["type"], chat["member_count"], chat["message_count"]) == ("private", 2, 0)
    assert (chat["title"], chat["creator_id"], chat["last_message"]) == (None, None, None)
    assert chat["mine"]["peer"] == {"id": boris.id, "name": "Boris", "avatar": None}
    assert (chat["mine"]["visible_from_seq"], chat["mine"]["unread_count"]) == (1, 0)
    page = await transport.do(anna, "list_messages", chat_id=chat["id"])
    assert page["items"] == [] and not page["has_before"] and not page["has_after"]
    assert [item["id"] for item in (await transport.do(boris, "list_chats"))["items"]] == [chat["id"]]


async def test_both_users_get_a_new_private_chat_with_the_other_as_peer(
    transport: Transport, anna: Person, boris: Person
) -> None:
    for person in (anna, boris):
        await person.forget()
    chat = await transport.open_private_chat(anna, boris)
    for person, peer in ((anna, boris), (boris, anna)):
        (event,) = await person.received("chats_changed")
        assert event["chats"] == [{key: value for key, value in chat.items() if key != "mine"}]
        assert [(mine["chat_id"], mine["peer"]["id"]) for mine in event["mine"]] == [(chat["id"], peer.id)]
        assert set(event["mine"][0]) == MINE | {"chat_id"}
        assert event["removed"] == [] and event["users"] == []


@pytest.mark.parametrize("again", ["same", "other"])
async def test_opening_an_existing_private_chat_returns_it_and_changes_nothing(
    transport: Transport, anna: Person, boris: Person, again: str
) -> None:
    chat = await transport.open_private_chat(anna, boris)
    opener, peer = (anna, boris) if again == "same" else (boris, anna)
    await anna.forget()
    await boris.forget()
    answer = await transport.call(opener, "open_private_chat", user_id=peer.id)
    assert (answer.status, answer.data["id"], answer.data["version"]) == (200, chat["id"], chat["version"])
    assert answer.data["mine"]["peer"]["id"] == peer.id
    assert await anna.received("chats_changed") == await boris.received("chats_changed") == []


async def test_simultaneous_openings_from_both_sides_make_one_chat(
    transport: Transport, anna: Person, boris: Person
) -> None:
    asked = [
        transport.call_at_once(person, 5, "open_private_chat", user_id=peer.id)
        for person, peer in ((anna, boris), (boris, anna))
    ]
    answers = [answer for answers in await asyncio.gather(*asked) for answer in answers]
    assert sorted(answer.status for answer in answers) == [200] * 9 + [201]
    assert len({answer.data["id"] for answer in answers}) == 1
    assert len((await transport.do(anna, "list_chats"))["items"]) == 1


async def test_a_private_chat_with_oneself_is_refused(transport: Transport, anna: Person) -> None:
    answer = await transport.call(anna, "open_private_chat", user_id=anna.id)
    assert (answer.status, answer.code) == (422, "invalid_input")
    assert (await transport.do(anna, "list_chats"))["items"] == []


async def test_a_private_chat_with_an_unknown_user_is_refused(transport: Transport, anna: Person) -> None:
    answer = await transport.call(anna, "open_private_chat", user_id=str(uuid4()))
    assert (answer.status, answer.code) == (404, "user_not_found")
    assert (await transport.do(anna, "list_chats"))["items"] == []


async def test_a_malformed_user_id_is_refused(transport: Transport, anna: Person) -> None:
    for argument in ({}, {"user_id": None}, {"user_id": "boris"}, {"user_id": 1}, {"title": "x"}):
        answer = await transport.call(anna, "open_private_chat", **argument)
        assert (answer.status, answer.code) == (422, "invalid_input"), argument


async def test_both_users_send_and_read_the_same_history(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.open_private_chat(anna, boris)
    await transport.send(anna, chat["id"], "hello")
    await transport.send(boris, chat["id"], "hi")
    for person in (anna, boris):
        items = await transport.history(person, chat["id"])
        assert [(item["seq"], item["text"]) for item in items] == [(1, "hello"), (2, "hi")]


async def test_an_outsider_does_not_see_a_private_chat(
    transport: Transport, anna: Person, boris: Person, outsider: Person
) -> None:
    await outsider.forget()
    chat = await transport.open_private_chat(anna, boris)
    await transport.send(anna, chat["id"])
    assert (await transport.call(outsider, "get_chat", chat_id=chat["id"])).code == "chat_not_found"
    assert (await transport.do(outsider, "list_chats"))["items"] == []
    assert await outsider.received("chats_changed") == []


async def test_group_operations_on_a_private_chat_are_refused(
    transport: Transport, anna: Person, boris: Person
) -> None:
    chat = await transport.open_private_chat(anna, boris)
    for operation, more in (("leave_chat", {}), ("delete_chat", {}), ("remove_member", {"user_id": boris.id})):
        answer = await transport.call(anna, operation, chat_id=chat["id"], **more)
        assert (answer.status, answer.code) == (409, "not_a_group"), operation
    assert (await transport.do(boris, "get_chat", chat_id=chat["id"]))["version"] == chat["version"]
