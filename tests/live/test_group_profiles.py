"""The profile of a group, which its creator changes for all members, and handing the group over."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from chat_app.cli import inspection
from chat_app.database import Database
from chat_app.media.storage import Storage
from chat_app.settings import get_settings
from tests.clients import Person, SocketTransport, Transport
from tests.operations import DOT
from tests.service import MakePerson

CROWD = 50


async def newest(transport: Transport, person: Person, chat_id: str) -> Any:
    return (await transport.history(person, chat_id))[-1]


class TestProfile:
    async def test_a_change_has_one_version_and_one_system_message_that_names_it(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        where = {"chat_id": chat["id"]}
        await boris.open(chat["id"])
        for person in (boris, clara):
            await person.forget()

        group = await transport.do(anna, "update_group", **where, title="Hike", description="On Saturdays")

        profile = {"title": "Hike", "avatar": None, "description": "On Saturdays"}
        assert group == {**where, "version": chat["version"] + 1, **profile}
        message = await newest(transport, boris, chat["id"])
        changed = {"event": "group_changed", "user_ids": [], "title": "Hike", "fields": ["title", "description"]}
        assert (message["system"], message["version"], message["sender_id"]) == (changed, group["version"], anna.id)
        for person in (boris, clara):
            (event,) = await person.received("chats_changed")
            (entry,) = event["chats"]
            assert (entry["title"], entry["version"], entry["message_count"]) == ("Hike", group["version"], 2)
            assert "description" not in entry and event["mine"] == []
            assert [user["id"] for user in event["users"]] == [anna.id]
        (window,) = await boris.received("messages_changed")
        assert (window["since"], window["version"], window["members"]) == (chat["version"], group["version"], [])
        assert [row["system"] for row in window["messages"]] == [changed]
        assert await clara.received("messages_changed") == []
        mine = (await transport.do(clara, "get_chat", **where))["mine"]
        assert mine["unread_count"] == 0, "a system message does not make a read chat unread"

    async def test_only_an_opened_chat_and_the_group_have_the_description(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        where = {"chat_id": chat["id"]}
        assert (await transport.do(boris, "activate_chat", **where))["description"] is None
        group = await transport.do(anna, "update_group", **where, description="On Saturdays")
        assert (await newest(transport, boris, chat["id"]))["system"]["title"] is None, "the title is the former one"
        assert await transport.do(boris, "get_group", **where) == group
        assert (await transport.do(boris, "activate_chat", **where))["description"] == "On Saturdays"
        assert "description" not in await transport.do(boris, "get_chat", **where)
        await transport.do(anna, "add_members", **where, user_ids=[clara.id])
        assert (await transport.do(clara, "get_group", **where))["description"] == "On Saturdays"

    async def test_what_is_the_same_is_no_change(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.create_group(anna, boris)
        where = {"chat_id": chat["id"]}
        await transport.do(anna, "update_group", **where, description="On Saturdays")
        await boris.forget()
        for same in ({"title": "Trip"}, {"description": "On Saturdays"}):
            assert (await transport.do(anna, "update_group", **where, **same))["version"] == chat["version"] + 1
        assert await boris.received_all() == []
        await transport.do(anna, "update_group", **where, title="Hike", description="On Saturdays")
        assert (await newest(transport, boris, chat["id"]))["system"]["fields"] == ["title"]

    @pytest.mark.parametrize("removal", [{"description": None}, {"unset": ["description"]}])
    async def test_null_and_unset_remove_the_description(
        self, removal: dict[str, Any], transport: Transport, anna: Person, boris: Person
    ) -> None:
        where = {"chat_id": (await transport.create_group(anna, boris))["id"]}
        await transport.do(anna, "update_group", **where, description="On Saturdays")
        assert (await transport.do(anna, "update_group", **where, **removal))["description"] is None
        assert (await newest(transport, boris, where["chat_id"]))["system"]["fields"] == ["description"]
        again = await transport.do(anna, "update_group", **where, **removal)
        assert again == await transport.do(boris, "get_group", **where)

    async def test_impossible_fields_are_refused(self, transport: Transport, anna: Person, boris: Person) -> None:
        where = {"chat_id": (await transport.create_group(anna, boris))["id"]}
        for fields in (
            {},
            {"unset": []},
            {"title": None},
            {"unset": ["title"]},
            {"title": "two\nlines"},
            {"title": "x" * 101},
            {"description": ""},
            {"description": "x" * 501},
            {"description": "x", "unset": ["description"]},
            {"picture_key": "x"},
            {"creator_id": boris.id},
        ):
            answer = await transport.call(anna, "update_group", **where, **fields)
            assert (answer.status, answer.code) == (422, "invalid_input"), fields
        assert (await transport.do(anna, "get_chat", **where))["version"] == 1

    async def test_only_the_creator_of_a_group_changes_it(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        group, pair = await transport.create_group(anna, boris), await transport.open_private_chat(anna, boris)
        changes: dict[str, dict[str, Any]] = {
            "update_group": {"title": "Mine"},
            "delete_group_avatar": {},
            "set_creator": {"user_id": boris.id},
        }
        for operation, arguments in changes.items():
            for person, chat, expected in (
                (boris, group, (403, "not_creator")),
                (anna, pair, (409, "not_a_group")),
                (clara, group, (404, "chat_not_found")),
            ):
                answer = await transport.call(person, operation, chat_id=chat["id"], **arguments)
                assert (answer.status, answer.code) == expected, operation
        answer = await transport.call(anna, "get_group", chat_id=pair["id"])
        assert (answer.status, answer.code) == (409, "not_a_group")
        assert (await transport.do(boris, "get_chat", chat_id=group["id"]))["version"] == group["version"]

    async def test_a_chat_that_became_a_group_has_a_profile(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        where = {"chat_id": (await transport.open_private_chat(anna, boris))["id"]}
        await transport.do(boris, "add_members", **where, user_ids=[clara.id], title="Three")
        group = await transport.do(boris, "update_group", **where, description="All of us")
        assert (group["title"], group["description"]) == ("Three", "All of us")


class TestHandingOver:
    async def test_the_new_creator_may_what_the_former_may_not_any_more(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        where = {"chat_id": chat["id"]}
        await clara.open(chat["id"])
        await clara.forget()

        handed = await transport.do(anna, "set_creator", **where, user_id=boris.id)

        assert (handed["creator_id"], handed["version"]) == (boris.id, chat["version"] + 1)
        message = await newest(transport, clara, chat["id"])
        changed = {"event": "creator_changed", "user_ids": [boris.id], "title": None, "fields": None}
        assert (message["system"], message["version"], message["sender_id"]) == (changed, handed["version"], anna.id)
        (window,) = await clara.received("messages_changed")
        rows = {row["user_id"]: (row["is_creator"], row["version"]) for row in window["members"]}
        assert rows == {anna.id: (False, handed["version"]), boris.id: (True, handed["version"])}
        (event,) = await clara.received("chats_changed")
        assert event["chats"][0]["creator_id"] == boris.id
        assert {user["id"] for user in event["users"]} == {anna.id, boris.id}
        caught = await transport.do(clara, "list_changes", **where, since=chat["version"])
        assert {row["user_id"]: row["is_creator"] for row in caught["members"]} == {anna.id: False, boris.id: True}

        for operation, arguments in (("delete_chat", {}), ("remove_member", {"user_id": clara.id})):
            assert (await transport.call(anna, operation, **where, **arguments)).code == "not_creator"
        assert (await transport.call(boris, "leave_chat", **where)).code == "creator_cannot_leave"
        assert (await transport.call(anna, "leave_chat", **where)).status == 204
        assert (await transport.call(boris, "delete_chat", **where)).status == 204

    async def test_only_another_member_becomes_the_creator(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        where = {"chat_id": chat["id"]}
        await transport.do(clara, "leave_chat", **where)
        for user_id in (clara.id, str(uuid4())):
            answer = await transport.call(anna, "set_creator", **where, user_id=user_id)
            assert (answer.status, answer.code) == (404, "member_not_found")
        await boris.forget()
        assert (await transport.do(anna, "set_creator", **where, user_id=anna.id))["creator_id"] == anna.id
        assert await boris.received_all() == []

    async def test_a_client_id_is_the_founders_also_after_the_group_was_handed_over(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        client_id = str(uuid4())
        annas = await transport.create_group(anna, boris, client_id=client_id)
        boriss = await transport.create_group(boris, anna, client_id=client_id)
        handed = await transport.do(anna, "set_creator", chat_id=annas["id"], user_id=boris.id)
        assert handed["creator_id"] == boris.id
        for founder, other, chat in ((anna, boris, annas), (boris, anna, boriss)):
            answer = await transport.call(
                founder, "create_group", title="Trip", member_ids=[other.id], client_id=client_id
            )
            assert (answer.status, answer.data["id"]) == (200, chat["id"])
            answer = await transport.call(
                founder, "create_group", title="Other", member_ids=[other.id], client_id=client_id
            )
            assert answer.code == "client_id_reused"

    async def test_a_group_of_the_former_release_is_known_by_its_client_id(
        self, transport: Transport, anna: Person, boris: Person, database: Database
    ) -> None:
        """It has no founding key, neither before it is handed over nor afterwards."""
        client_id = str(uuid4())
        chat = await transport.create_group(anna, boris, client_id=client_id)
        async with database.transaction() as db:
            await db.fetch("UPDATE chat SET founding_key = NULL WHERE id = $1", UUID(chat["id"]))
        again = {"title": "Trip", "member_ids": [boris.id], "client_id": client_id}
        assert (await transport.call(anna, "create_group", **again)).data["id"] == chat["id"]
        await transport.do(anna, "set_creator", chat_id=chat["id"], user_id=boris.id)
        assert (await transport.call(anna, "create_group", **again)).data["id"] == chat["id"]

    async def test_fifty_clients_who_hand_over_at_once_leave_one_creator(
        self, make_person: MakePerson, database: Database
    ) -> None:
        transport = SocketTransport()
        people = [await make_person(f"Person {number}", connected=True) for number in range(CROWD)]
        chat = await transport.create_group(people[0], *people[1:])
        where = {"chat_id": chat["id"]}

        async def hand_over(number: int) -> list[tuple[int, str | None]]:
            answers = []
            for step in (1, 7, 13):
                heir = people[(number + step) % CROWD]
                answer = await transport.call(people[number], "set_creator", **where, user_id=heir.id)
                answers.append((answer.status, answer.code))
            return answers

        answers = [one for several in await asyncio.gather(*map(hand_over, range(CROWD))) for one in several]

        assert set(answers) == {(200, None), (403, "not_creator")}
        members = (await transport.do(people[0], "list_members", **where))["items"]
        (creator,) = [member["user_id"] for member in members if member["is_creator"]]
        entry = await transport.do(people[0], "get_chat", **where)
        assert (entry["creator_id"], entry["member_count"]) == (creator, CROWD)
        changes = [row["system"] for row in await transport.history(people[0], chat["id"], limit=100)][1:]
        assert len(changes) == answers.count((200, None)) > 1, "there has to be a second creator to mean anything"
        assert changes[-1]["user_ids"] == [creator]
        assert entry["version"] == chat["version"] + len(changes), "each handing over takes one version"
        storage = Storage(get_settings().media_location)
        rule = "the creator of a group is no member"
        assert [line async for line in inspection.verify(database, storage) if line.startswith(rule)] == []


async def test_a_deleted_group_has_no_picture(
    transport: Transport, anna: Person, boris: Person, database: Database
) -> None:
    chat = await transport.create_group(anna, boris)
    url = f"/api/v1/chats/{chat['id']}/avatar"
    avatar = (await anna.http.put(url, json={"image": DOT})).json()["avatar"]
    assert (await anna.http.get(avatar["small"])).status_code == 200
    await transport.do(anna, "delete_chat", chat_id=chat["id"])
    async with database.reading() as db:
        assert (await db.fetch("SELECT picture_key FROM chat WHERE id = $1", UUID(chat["id"])))[0][0] is None
