"""Profiles: one's own and those of others, search and lookup."""

import asyncio
import json
from itertools import count
from typing import Any
from uuid import uuid4

import pytest

from tests.clients import Answer, HttpTransport, Person, http_answer
from tests.service import MakePerson

USERS = "/api/v1/users"
PROFILE = {"id", "name", "avatar", "username", "bio", "extra", "last_seen_at", "online"}
NUMBERS = count(1)


def unique(word: str) -> str:
    """A word that no other test has."""
    return f"{word}{next(NUMBERS):03d}"


async def edit(person: Person, **changes: object) -> Answer:
    return http_answer(await person.http.patch(f"{USERS}/me", json=changes))


async def me(person: Person) -> Any:
    return http_answer(await person.http.get(f"{USERS}/me")).data


async def search(person: Person, **query: object) -> list[str]:
    """The names of the users that are found."""
    answer = http_answer(await person.http.get(USERS, params=query))
    assert answer.ok, answer
    return [user["name"] for user in answer.data["items"]]


class TestOwnProfile:
    async def test_an_update_changes_only_the_fields_sent(self, anna: Person) -> None:
        before = await me(anna)
        assert set(before) == PROFILE | {"phone", "is_verified", "has_password", "created_at"}
        username = unique("Anna_")
        for change in ({"name": "Анна"}, {"username": username}, {"bio": "line\nline"}, {}):
            answer = await edit(anna, **change)
            assert (answer.status, answer.data) == (200, before | change)
            before = answer.data
        assert await me(anna) == before

    async def test_username_and_bio_can_be_cleared_but_not_the_name(self, anna: Person) -> None:
        await edit(anna, username=unique("anna"), bio="hello")
        assert (await edit(anna, username=None, bio="")).ok
        after = await me(anna)
        assert (after["username"], after["bio"]) == (None, "")
        assert (await edit(anna, name=None)).code == "invalid_input"
        assert (await me(anna))["name"] == "Anna"

    async def test_a_client_without_null_clears_the_username_by_name(self, anna: Person) -> None:
        before = (await edit(anna, username=unique("anna"), bio="hello")).data
        after = (await edit(anna, name="Anna B", unset=["username", "username"])).data
        assert after == before | {"name": "Anna B", "username": None} == await me(anna)

    @pytest.mark.parametrize(
        ("change", "pointer"),
        [
            ({"unset": ["name"]}, "/unset/0"),
            ({"unset": ["username", "extra", "bio"]}, "/unset/2"),
            ({"unset": ["colour"]}, "/unset/0"),
            ({"unset": "username"}, "/unset"),
            ({"unset": ["username"], "username": "other_name"}, "/username"),
            ({"unset": ["username"], "username": None}, "/username"),
        ],
        ids=str,
    )
    async def test_only_what_can_be_null_and_is_not_sent_can_be_unset(
        self, anna: Person, change: dict[str, Any], pointer: str
    ) -> None:
        before = (await edit(anna, username=unique("anna"))).data
        answer = await anna.http.patch(f"{USERS}/me", json=change)
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
        assert http_answer(answer).code == "invalid_input"
        assert await me(anna) == before

    async def test_invalid_input_is_refused(self, anna: Person) -> None:
        before = await me(anna)
        for change in (
            {"name": ""},
            {"name": " "},
            {"name": "x" * 101},
            {"name": "two\nlines"},
            {"name": "nul\x00"},
            {"name": 7},
            {"username": ""},
            {"username": "ab"},
            {"username": "x" * 33},
            {"username": "1abc"},
            {"username": "with space"},
            {"username": "имя"},
            {"username": "abc\n"},
            {"bio": None},
            {"bio": "x" * 501},
            {"bio": "nul\x00"},
            {"extra": []},
            {"extra": "{}"},
            {"phone": "+79160000000"},
            {"is_verified": True},
            {"avatar": None},
            {"avatar_key": "x"},
            {"id": str(uuid4())},
        ):
            assert (await edit(anna, name="Other") if change == {} else await edit(anna, **change)).status == 422, (
                change
            )
        assert await me(anna) == before

    async def test_a_username_is_unique_in_any_case(self, anna: Person, boris: Person) -> None:
        username = unique("Anna")
        await edit(anna, username=username)
        for same in (username, username.lower(), username.upper()):
            answer = await edit(boris, username=same, bio="changed")
            assert (answer.status, answer.code) == (409, "username_taken")
        assert (await me(boris))["username"] is None and (await me(boris))["bio"] == ""
        assert (await edit(anna, username=username.swapcase())).data["username"] == username.swapcase()
        await edit(anna, username=None)
        assert (await edit(boris, username=username)).ok

    async def test_one_of_simultaneous_claims_of_a_username_succeeds(self, make_person: MakePerson) -> None:
        people = [await make_person() for _ in range(5)]
        username = unique("wanted")
        answers = await asyncio.gather(*(edit(person, username=username) for person in people))
        assert (
            sorted((answer.status, answer.code) for answer in answers) == [(200, None)] + [(409, "username_taken")] * 4
        )


class TestProfilesOfOthers:
    async def test_every_user_sees_every_profile(self, anna: Person, boris: Person) -> None:
        await edit(boris, username=unique("boris"), bio="hello")
        answer = http_answer(await anna.http.get(f"{USERS}/{boris.id}"))
        own = await me(boris)
        assert (answer.status, answer.data) == (200, {field: own[field] for field in PROFILE})

    async def test_an_unknown_user_is_not_found(self, anna: Person) -> None:
        answer = http_answer(await anna.http.get(f"{USERS}/{uuid4()}"))
        assert (answer.status, answer.code) == (404, "user_not_found")
        assert http_answer(await anna.http.get(f"{USERS}/x")).code == "invalid_input"

    async def test_lookup_by_the_whole_phone_returns_its_owner(self, anna: Person, boris: Person) -> None:
        phone = (await me(boris))["phone"]
        for written in (phone, phone.replace("+7", "8"), f"8 ({phone[2:5]}) {phone[5:8]}-{phone[8:]}"):
            answer = http_answer(await anna.http.post(f"{USERS}/lookup", json={"phone": written}))
            assert (answer.status, answer.data["id"], set(answer.data)) == (200, boris.id, PROFILE)
        for unknown in ("+79990000000", "+79990000001"):
            answer = http_answer(await anna.http.post(f"{USERS}/lookup", json={"phone": unknown}))
            assert (answer.status, answer.code) == (404, "user_not_found")
        for part in (phone[:-1], "x", "", None):
            answer = http_answer(await anna.http.post(f"{USERS}/lookup", json={"phone": part}))
            assert (answer.status, answer.code) == (422, "invalid_input")

    async def test_lookup_of_many_phones_answers_each_in_its_place(self, anna: Person, boris: Person) -> None:
        phones = [(await me(person))["phone"] for person in (boris, anna)]
        local = phones[0].replace("+7", "8")
        sent = [phones[0], "+79990000000", phones[1], local]
        answer = http_answer(await anna.http.post(f"{USERS}/lookup/many", json={"phones": sent}))
        assert answer.status == 200
        found = [(item["phone"], item["user"] and item["user"]["id"]) for item in answer.data["items"]]
        assert found == [(phones[0], boris.id), (sent[1], None), (phones[1], anna.id), (phones[0], boris.id)]
        assert [set(item) for item in answer.data["items"]] == [{"phone", "user"}] * 4
        assert set(answer.data["items"][0]["user"]) == PROFILE
        for wrong in ([], ["+79990000000"] * 101, [phones[0], "x"], [None], None, phones[0]):
            answer = http_answer(await anna.http.post(f"{USERS}/lookup/many", json={"phones": wrong}))
            assert (answer.status, answer.code) == (422, "invalid_input"), wrong


class TestSearch:
    async def test_search_finds_beginnings_of_words_of_names_and_usernames(
        self, anna: Person, make_person: MakePerson
    ) -> None:
        word = unique("Zed")
        first = await make_person(f"{word} Smith")
        await make_person(f"Maria {word}ova")
        third = await make_person("Ivan")
        await edit(third, username=word.upper())
        found = await search(anna, query=word)
        assert set(found[:2]) == {"Ivan", f"{word} Smith"} and f"Maria {word}ova" in found[2:]
        assert await search(anna, query=word.lower()) == await search(anna, query=word.upper()) == found
        assert await search(anna, query=word, limit=2) == found[:2]
        answer = http_answer(await anna.http.get(USERS, params={"query": f"{word} s"}))
        assert [(user["id"], set(user)) for user in answer.data["items"]][:1] == [(first.id, PROFILE)]

    async def test_search_ignores_case_in_every_alphabet(self, anna: Person, make_person: MakePerson) -> None:
        word = unique("Ёлка")
        await make_person(f"{word} Иванова")
        for query in (word.lower(), word.upper(), "ИВАНОВА"):
            assert f"{word} Иванова" in await search(anna, query=query)

    async def test_search_takes_sql_wildcards_literally(self, anna: Person, make_person: MakePerson) -> None:
        word = unique("Per")
        for name in (f"{word}%cent", f"{word}_score", f"{word}\\slash"):
            await make_person(name)
            assert (await search(anna, query=name[:7]))[0] == name, name[:7]
        assert await search(anna, query="%") == await search(anna, query="_") == await search(anna, query="'; --") == []

    async def test_search_does_not_find_phones(self, anna: Person, boris: Person) -> None:
        phone = (await me(boris))["phone"]
        for query in (phone, phone[1:], phone[-7:], phone[:6]):
            assert "Boris" not in await search(anna, query=query)

    async def test_search_by_ids_returns_several_users(self, anna: Person, boris: Person) -> None:
        assert sorted(await search(anna, ids=[anna.id, boris.id, str(uuid4()), boris.id])) == ["Anna", "Boris"]
        assert await search(anna, ids=[boris.id], limit=1) == ["Boris"]
        assert await search(anna, ids=[anna.id, boris.id], query="bor") == ["Boris"]
        assert await search(anna, ids=[anna.id] + [str(uuid4()) for _ in range(99)]) == ["Anna"]

    async def test_invalid_input_is_refused(self, anna: Person) -> None:
        for query in (
            {"query": ""},
            {"query": "x" * 101},
            {"query": "\x00"},
            {"ids": "x"},
            {"ids": [str(uuid4()) for _ in range(101)]},
            {"limit": 0},
            {"limit": 101},
        ):
            answer = http_answer(await anna.http.get(USERS, params=query))
            assert (answer.status, answer.code) == (422, "invalid_input"), query


class TestPhones:
    async def test_no_answer_has_the_phone_of_another_user(
        self, anna: Person, boris: Person, openapi: dict[str, object], make_person: MakePerson
    ) -> None:
        transport = HttpTransport(openapi)
        digits = [(await me(person))["phone"][1:] for person in (anna, boris)]
        chat = await transport.open_private_chat(anna, boris)
        await anna.open(chat["id"])
        await transport.send(boris, chat["id"])
        clara = await make_person("Clara")
        await transport.do(boris, "add_members", chat_id=chat["id"], user_ids=[clara.id], share_history=True)
        await transport.do(boris, "like_message", chat_id=chat["id"], seq=1)
        username = unique("boris")
        await edit(boris, username=username, bio="hello")
        answers = [
            await transport.do(anna, "list_chats"),
            await transport.do(anna, "get_active_chat"),
            await transport.do(anna, "list_changes", chat_id=chat["id"], since=0),
            await transport.do(anna, "list_likes", chat_id=chat["id"], seq=1),
            await transport.do(anna, "search_users", query=username),
            await transport.do(anna, "get_user", user_id=boris.id),
            await transport.do(anna, "lookup_user", phone=(await me(boris))["phone"]),
            await anna.received_all(),
        ]
        assert all(boris.id in json.dumps(answer) for answer in answers)
        assert [digit for digit in digits for answer in answers if digit in json.dumps(answer)] == []

    def test_only_the_own_account_and_inputs_have_a_phone_field(self, openapi: dict[str, Any]) -> None:
        schemas = openapi["components"]["schemas"]
        named = {
            name
            for name, schema in schemas.items()
            if "phone" in schema.get("properties", {}) and schema.get("additionalProperties") is not False
        }
        # The phone of a contact is part of a message, and a lookup repeats the numbers that it was asked for.
        assert named == {"UserMe", "Contact", "LookedUp"}
