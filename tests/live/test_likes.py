"""Likes: a set of users for each message."""

import asyncio

import pytest

from tests.clients import Person, Transport
from tests.service import MakePerson

PROFILE = {"id", "name", "avatar", "username", "bio", "last_seen_at", "online", "extra"}


async def test_a_like_is_counted_and_liked_is_shown_to_its_user_only(
    transport: Transport, anna: Person, boris: Person
) -> None:
    chat = await transport.open_private_chat(anna, boris)
    sent = await transport.send(anna, chat["id"])
    liked = await transport.do(boris, "like_message", chat_id=chat["id"], seq=1)
    assert liked == sent | {"like_count": 1, "liked": True, "version": sent["version"] + 1}
    assert await transport.do(boris, "get_message", chat_id=chat["id"], seq=1) == liked
    assert await transport.do(anna, "get_message", chat_id=chat["id"], seq=1) == liked | {"liked": False}
    unliked = await transport.do(boris, "unlike_message", chat_id=chat["id"], seq=1)
    assert unliked == sent | {"version": sent["version"] + 2}


@pytest.mark.parametrize("operation", ["like_message", "unlike_message"])
async def test_liking_twice_changes_nothing(transport: Transport, anna: Person, boris: Person, operation: str) -> None:
    chat = await transport.open_private_chat(anna, boris)
    await transport.send(anna, chat["id"])
    await transport.do(boris, "like_message", chat_id=chat["id"], seq=1)
    once = await transport.do(boris, operation, chat_id=chat["id"], seq=1)
    await anna.open(chat["id"])
    await anna.forget()
    assert await transport.do(boris, operation, chat_id=chat["id"], seq=1) == once
    assert await anna.received_all() == []
    assert (await transport.do(anna, "get_chat", chat_id=chat["id"]))["version"] == once["version"]


async def test_unliking_without_a_like_changes_nothing(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.open_private_chat(anna, boris)
    await transport.send(anna, chat["id"])
    liked = await transport.do(boris, "like_message", chat_id=chat["id"], seq=1)
    assert await transport.do(anna, "unlike_message", chat_id=chat["id"], seq=1) == liked | {"liked": False}


async def test_own_messages_and_system_messages_can_be_liked(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.create_group(anna, boris)
    await transport.send(anna, chat["id"])
    for seq in (1, 2):
        assert (await transport.do(anna, "like_message", chat_id=chat["id"], seq=seq))["like_count"] == 1


async def test_open_windows_get_the_count_and_only_the_user_who_likes_gets_liked(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris, clara)
    for person in (anna, boris):
        await person.open(chat["id"])
        await person.forget()
    await clara.forget()
    for operation, liked in (("like_message", True), ("unlike_message", False)):
        changed = await transport.do(boris, operation, chat_id=chat["id"], seq=1)
        for person in (anna, boris):
            event = (await person.received("messages_changed"))[-1]
            assert (event["since"], event["version"]) == (changed["version"] - 1, changed["version"])
            (message,) = event["messages"]
            own = ("liked", "reacted")
            assert message == {k: v for k, v in changed.items() if person is boris or k not in own}
        assert changed["liked"] is liked
    for person in (anna, boris, clara):
        assert await person.received("chats_changed") == []
    assert await clara.received("messages_changed") == []


async def test_a_like_moves_neither_the_chat_nor_a_read_position(
    transport: Transport, anna: Person, boris: Person
) -> None:
    chat = await transport.open_private_chat(anna, boris)
    await transport.send(anna, chat["id"])
    before = await transport.do(boris, "get_chat", chat_id=chat["id"])
    await transport.do(boris, "like_message", chat_id=chat["id"], seq=1)
    after = await transport.do(boris, "get_chat", chat_id=chat["id"])
    assert after == before | {"version": before["version"] + 1}


async def test_simultaneous_likes_of_one_user_are_one_like(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.open_private_chat(anna, boris)
    sent = await transport.send(anna, chat["id"])
    answers = await transport.call_at_once(boris, 6, "like_message", chat_id=chat["id"], seq=1)
    assert [answer.data["like_count"] for answer in answers] == [1] * 6
    assert {answer.data["version"] for answer in answers} == {sent["version"] + 1}


async def test_simultaneous_likes_and_unlikes_leave_the_count_of_the_list(
    transport: Transport, anna: Person, boris: Person
) -> None:
    chat = await transport.open_private_chat(anna, boris)
    await transport.send(anna, chat["id"])
    likes = transport.call_at_once(boris, 4, "like_message", chat_id=chat["id"], seq=1)
    unlikes = transport.call_at_once(boris, 4, "unlike_message", chat_id=chat["id"], seq=1)
    own = transport.call_at_once(anna, 2, "like_message", chat_id=chat["id"], seq=1)
    answers = [answer for several in await asyncio.gather(likes, unlikes, own) for answer in several]
    assert all(answer.ok for answer in answers)
    message = await transport.do(boris, "get_message", chat_id=chat["id"], seq=1)
    likers = [user["id"] for user in (await transport.do(boris, "list_likes", chat_id=chat["id"], seq=1))["items"]]
    assert message["like_count"] == len(likers) and message["liked"] == (boris.id in likers)
    assert anna.id in likers


async def test_simultaneous_likes_of_many_users_all_count(transport: Transport, make_person: MakePerson) -> None:
    people = [await make_person(f"Person {number}", connected=True) for number in range(6)]
    chat = await transport.create_group(people[0], *people[1:])
    await asyncio.gather(*(transport.do(person, "like_message", chat_id=chat["id"], seq=1) for person in people))
    assert (await transport.do(people[0], "get_message", chat_id=chat["id"], seq=1))["like_count"] == 6


async def test_the_list_of_likes_comes_in_pages(transport: Transport, make_person: MakePerson) -> None:
    people = [await make_person(f"Person {number}") for number in range(5)]
    chat = await transport.create_group(people[0], *people[1:])
    liking = [people[2], people[4], people[0], people[1]]
    for person in liking:
        await transport.do(person, "like_message", chat_id=chat["id"], seq=1)
    found, cursor, sizes = [], {}, []
    while cursor is not None:
        page = await transport.do(people[3], "list_likes", chat_id=chat["id"], seq=1, limit=2, **cursor)
        assert all(set(user) == PROFILE for user in page["items"])
        found += [user["id"] for user in page["items"]]
        sizes.append(len(page["items"]))
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
    assert sizes == [2, 2]
    assert found == [person.id for person in liking], "in the order of liking, not of registration"
    await transport.do(people[2], "unlike_message", chat_id=chat["id"], seq=1)
    await transport.do(people[2], "like_message", chat_id=chat["id"], seq=1)
    page = await transport.do(people[3], "list_likes", chat_id=chat["id"], seq=1)
    assert [user["id"] for user in page["items"]] == [person.id for person in (*liking[1:], people[2])]


async def test_a_page_of_likes_goes_on_after_a_like_that_was_taken_back(
    transport: Transport, make_person: MakePerson
) -> None:
    people = [await make_person(f"Person {number}") for number in range(4)]
    chat = await transport.create_group(people[0], *people[1:])
    for person in people:
        await transport.do(person, "like_message", chat_id=chat["id"], seq=1)
    where = {"chat_id": chat["id"], "seq": 1, "limit": 2}
    page = await transport.do(people[0], "list_likes", **where)
    await transport.do(people[1], "unlike_message", chat_id=chat["id"], seq=1)
    page = await transport.do(people[0], "list_likes", **where, cursor=page["next_cursor"])
    assert [user["id"] for user in page["items"]] == [people[2].id, people[3].id]
    assert page["next_cursor"] is None


async def test_foreign_cursors_and_limits_are_refused(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.create_group(anna, boris)
    user_id = anna.id.replace("-", "")
    cursors = ("x", "", user_id, f"1e999_{user_id}", f"nan_{user_id}", f"-9999999999999_{user_id}", "1.0_x")
    for more in (*({"cursor": cursor} for cursor in cursors), {"limit": 0}, {"limit": 101}):
        answer = await transport.call(anna, "list_likes", chat_id=chat["id"], seq=1, **more)
        assert (answer.status, answer.code) == (422, "invalid_input"), more


async def test_a_missing_message_cannot_be_liked(
    transport: Transport, anna: Person, boris: Person, outsider: Person
) -> None:
    chat = await transport.create_group(anna, boris)
    for operation in ("like_message", "unlike_message", "list_likes"):
        answer = await transport.call(anna, operation, chat_id=chat["id"], seq=2)
        assert (answer.status, answer.code) == (404, "message_not_found")
        answer = await transport.call(outsider, operation, chat_id=chat["id"], seq=1)
        assert (answer.status, answer.code) == (404, "chat_not_found")
