"""Reactions: emojis that users put on a message, beside the like."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from emoji import EMOJI_DATA, STATUS

from chat_app.models.base import LIMITS
from tests.clients import Person, Transport
from tests.service import MakePerson
from tests.test_naughty_strings import STRINGS

KINDS = (
    "👍",
    "❤️",
    "🎉",
    "🔥",
    "😂",
    "👀",
    "🙏",
    "💯",
    "🚀",
    "🥇",
    "🍀",
    "🌈",
    "🎁",
    "🎲",
    "🎧",
    "📌",
    "🐙",
    "🦊",
    "🐝",
    "🍓",
)
OWN = ("liked", "reacted")


async def reactions_of(transport: Transport, person: Person, chat_id: str, **more: object) -> list[tuple[str, str]]:
    page = await transport.do(person, "list_reactions", chat_id=chat_id, seq=1, **more)
    return [(item["user"]["name"], item["emoji"]) for item in page["items"]]


async def test_a_reaction_is_counted_and_shown_to_its_user_as_an_own_one(
    transport: Transport, anna: Person, boris: Person
) -> None:
    chat = await transport.open_private_chat(anna, boris)
    sent = await transport.send(anna, chat["id"])
    assert (sent["reactions"], sent["reacted"]) == ([], [])
    reacted = await transport.do(boris, "react", chat_id=chat["id"], seq=1, emoji="🎉")
    more = {"reactions": [{"emoji": "🎉", "count": 1}], "reacted": ["🎉"], "version": sent["version"] + 1}
    assert reacted == sent | more
    assert await transport.do(boris, "get_message", chat_id=chat["id"], seq=1) == reacted
    assert await transport.do(anna, "get_message", chat_id=chat["id"], seq=1) == reacted | {"reacted": []}
    assert await transport.history(anna, chat["id"]) == [reacted | {"reacted": []}]
    taken_back = await transport.do(boris, "unreact", chat_id=chat["id"], seq=1, emoji="🎉")
    assert taken_back == sent | {"version": sent["version"] + 2}


async def test_the_most_frequent_come_first_and_then_the_order_is_by_emoji(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris, clara)
    for person, emoji in ((anna, "🔥"), (boris, "👍"), (clara, "🎉"), (clara, "🔥"), (anna, "❤️")):
        await transport.do(person, "react", chat_id=chat["id"], seq=1, emoji=emoji)
    message = await transport.do(anna, "get_message", chat_id=chat["id"], seq=1)
    counts = [(reaction["emoji"], reaction["count"]) for reaction in message["reactions"]]
    assert counts == [("🔥", 2), ("❤️", 1), ("🎉", 1), ("👍", 1)]
    assert message["reacted"] == ["🔥", "❤️"]
    assert await reactions_of(transport, boris, chat["id"]) == [
        *(("Anna", "🔥"), ("Boris", "👍"), ("Clara", "🎉"), ("Clara", "🔥"), ("Anna", "❤️")),
    ], "in the order of reacting"
    assert await reactions_of(transport, boris, chat["id"], emoji="🔥") == [("Anna", "🔥"), ("Clara", "🔥")]


async def test_the_list_comes_in_pages(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.create_group(anna, boris)
    for emoji in KINDS[:3]:
        for person in (anna, boris):
            await transport.do(person, "react", chat_id=chat["id"], seq=1, emoji=emoji)
    whole = await reactions_of(transport, anna, chat["id"])
    assert len(whole) == 6
    found: list[tuple[str, str]] = []
    more: dict[str, Any] = {"limit": 4}
    while True:
        page = await transport.do(boris, "list_reactions", chat_id=chat["id"], seq=1, **more)
        assert set(page["items"][0]["user"]) == {"id", "name", "avatar"}
        found += [(item["user"]["name"], item["emoji"]) for item in page["items"]]
        if page["next_cursor"] is None:
            break
        more = {"limit": 4, "cursor": page["next_cursor"]}
    assert found == whole
    for wrong in ({"cursor": "x"}, {"cursor": "9" * 17}, {"limit": 0}, {"emoji": "x"}):
        answer = await transport.call(anna, "list_reactions", chat_id=chat["id"], seq=1, **wrong)
        assert (answer.status, answer.code) == (422, "invalid_input"), wrong


@pytest.mark.parametrize("operation", ["react", "unreact"])
async def test_the_same_again_changes_nothing(
    transport: Transport, anna: Person, boris: Person, operation: str
) -> None:
    chat = await transport.open_private_chat(anna, boris)
    await transport.send(anna, chat["id"])
    await transport.do(boris, "react", chat_id=chat["id"], seq=1, emoji="👍")
    once = await transport.do(boris, operation, chat_id=chat["id"], seq=1, emoji="👍")
    await anna.open(chat["id"])
    await anna.forget()
    assert await transport.do(boris, operation, chat_id=chat["id"], seq=1, emoji="👍") == once
    assert await transport.do(boris, "unreact", chat_id=chat["id"], seq=1, emoji="🎉") == once, "it was never there"
    assert await anna.received_all() == []
    assert (await transport.do(anna, "get_chat", chat_id=chat["id"]))["version"] == once["version"]


async def test_only_the_user_who_reacts_gets_the_own_reactions_in_the_event(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris, clara)
    for person in (anna, boris):
        await person.open(chat["id"])
        await person.forget()
    await clara.forget()
    for operation in ("react", "unreact"):
        changed = await transport.do(boris, operation, chat_id=chat["id"], seq=1, emoji="👍")
        for person in (anna, boris):
            event = (await person.received("messages_changed"))[-1]
            assert (event["since"], event["version"]) == (changed["version"] - 1, changed["version"])
            shown = {key: value for key, value in changed.items() if person is boris or key not in OWN}
            assert event["messages"] == [shown]
    for person in (anna, boris, clara):
        assert await person.received("chats_changed") == []
    assert await clara.received("messages_changed") == []


async def test_an_emoji_is_kept_fully_qualified(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.create_group(anna, boris)
    for sent, kept in (("❤", "❤️"), ("❤️", "❤️"), ("🏳‍🌈", "🏳️‍🌈"), ("👁‍🗨️", "👁️‍🗨️"), ("👩🏽‍🚀", "👩🏽‍🚀"), ("1⃣", "1️⃣")):
        reacted = await transport.do(anna, "react", chat_id=chat["id"], seq=1, emoji=sent)
        assert reacted["reacted"] == [kept], sent
        assert await reactions_of(transport, boris, chat["id"], emoji=sent) == [("Anna", kept)]
        assert (await transport.do(anna, "unreact", chat_id=chat["id"], seq=1, emoji=sent))["reacted"] == []


async def test_whatever_is_not_one_emoji_is_refused(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.create_group(anna, boris)
    tones = [emoji for emoji, about in EMOJI_DATA.items() if about["status"] == STATUS["component"]]
    # An unassigned flag, two emojis, a selector too many, and an emoji with something beside it.
    wrong = ["🇷", "🇽🇽", "👍👍", "👍\ufe0f", "👍 ", "a👍", "\ufe0f", "\u200d", "👩\u200d", *tones]
    surrogates = {text for text in STRINGS.values() if any("\ud800" <= letter <= "\udfff" for letter in text)}
    for emoji in (*wrong, *(set(STRINGS.values()) - surrogates)):
        for operation in ("react", "unreact"):
            answer = await transport.call(anna, operation, chat_id=chat["id"], seq=1, emoji=emoji)
            assert (answer.status, answer.code) in ((422, "invalid_input"), (431, "headers_too_large")), repr(emoji)
    assert (await transport.do(anna, "get_message", chat_id=chat["id"], seq=1))["reactions"] == []


async def test_a_person_has_three_at_most_and_a_message_twenty_kinds(
    transport: Transport, make_person: MakePerson
) -> None:
    people = [await make_person(f"Person {number}") for number in range(8)]
    chat = await transport.create_group(people[0], *people[1:])
    where = {"chat_id": chat["id"], "seq": 1}
    assert (LIMITS["own_reactions"], LIMITS["reaction_kinds"], len(set(KINDS))) == (3, 20, 20)
    for number, emoji in enumerate(KINDS):
        await transport.do(people[number // 3], "react", **where, emoji=emoji)
    before = await transport.do(people[7], "get_message", **where)
    for person, emoji in ((people[0], "👍🏽"), (people[0], KINDS[5]), (people[7], "👍🏽")):
        answer = await transport.call(person, "react", **where, emoji=emoji)
        assert (answer.status, answer.code) == (409, "too_many_reactions")
    assert await transport.do(people[7], "get_message", **where) == before
    assert (await transport.do(people[0], "react", **where, emoji=KINDS[0]))["version"] == before["version"], "again"
    for emoji in KINDS[:3]:
        await transport.do(people[7], "react", **where, emoji=emoji)
    await transport.do(people[6], "unreact", **where, emoji=KINDS[19])
    assert (await transport.do(people[6], "react", **where, emoji="👍🏽"))["reacted"] == [KINDS[18], "👍🏽"]


async def test_a_deleted_message_loses_its_reactions(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.create_group(anna, boris)
    await transport.send(anna, chat["id"])
    where = {"chat_id": chat["id"], "seq": 2}
    await transport.do(boris, "react", **where, emoji="👍")
    await boris.open(chat["id"])
    await transport.do(anna, "delete_message", **where)
    (event,) = await boris.received("messages_changed")
    tombstone = await transport.do(boris, "get_message", **where)
    assert event["messages"] == [tombstone] and (tombstone["reactions"], tombstone["reacted"]) == ([], [])
    assert (await transport.do(boris, "list_reactions", **where))["items"] == []
    answer = await transport.call(boris, "react", **where, emoji="👍")
    assert (answer.status, answer.code) == (409, "message_deleted")
    assert await transport.do(boris, "unreact", **where, emoji="👍") == tombstone


async def test_a_message_that_one_does_not_see_gets_no_reaction(
    transport: Transport, anna: Person, boris: Person, clara: Person, outsider: Person
) -> None:
    chat = await transport.create_group(anna, boris)
    await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
    for operation in ("react", "unreact", "list_reactions"):
        for person, seq in ((clara, 1), (anna, 3)):
            answer = await transport.call(person, operation, chat_id=chat["id"], seq=seq, emoji="👍")
            assert (answer.status, answer.code) == (404, "message_not_found")
        answer = await transport.call(outsider, operation, chat_id=chat["id"], seq=1, emoji="👍")
        assert (answer.status, answer.code) == (404, "chat_not_found")


async def test_fifty_parallel_clients_leave_counts_that_equal_the_rows_within_the_caps(
    transport: Transport, make_person: MakePerson
) -> None:
    people = [await make_person(f"Person {number}", connected=True) for number in range(10)]
    chat = await transport.create_group(people[0], *people[1:])
    kinds = [*KINDS, "👍🏽", "👍🏿", "🇷🇺", "1️⃣", "©️"]
    calls = [(people[number % 10], kinds[(7 * number) % 25]) for number in range(50)]
    assert Counter(person for person, _ in calls).most_common(1)[0][1] > 3 and len({kind for _, kind in calls}) > 20
    answers = await asyncio.gather(
        *(transport.call(person, "react", chat_id=chat["id"], seq=1, emoji=emoji) for person, emoji in calls),
        *(transport.call(person, "unreact", chat_id=chat["id"], seq=1, emoji=emoji) for person, emoji in calls[::3]),
    )
    codes = Counter(answer.code for answer in answers)
    assert codes.keys() == {None, "too_many_reactions"}
    found = await reactions_of(transport, people[0], chat["id"], limit=100)
    message = await transport.do(people[0], "get_message", chat_id=chat["id"], seq=1)
    counts = Counter(emoji for _, emoji in found)
    assert {each["emoji"]: each["count"] for each in message["reactions"]} == counts
    assert len(found) == len(set(found)) and 0 < len(counts) <= 20
    assert max(Counter(name for name, _ in found).values()) <= 3
