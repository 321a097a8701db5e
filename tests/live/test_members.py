"""Members of a group: adding, removing, leaving, and what each may see."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from chat_app.crud import members
from chat_app.database import Database
from chat_app.models import Chat
from chat_app.models.sessions import Actor
from tests.clients import DEADLINE, Person, Transport
from tests.factories import UserFactory

NO_CHANGE = {"title": None, "fields": None}


async def member_ids(transport: Transport, person: Person, chat_id: str) -> set[str]:
    """The ids of the members of the chat."""
    return {member["user_id"] for member in (await transport.do(person, "list_members", chat_id=chat_id))["items"]}


class TestList:
    async def test_members_come_in_the_order_of_joining(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        await transport.do(boris, "mark_read", chat_id=chat["id"], seq=1)
        listed = await transport.do(boris, "list_members", chat_id=chat["id"])
        assert [member["user_id"] for member in listed["items"]] == [anna.id, boris.id, clara.id]
        assert [member["is_creator"] for member in listed["items"]] == [True, False, False]
        assert [member["last_read_seq"] for member in listed["items"]] == [2, 1, 2]
        assert [member["removed_at"] for member in listed["items"]] == [None] * 3
        assert {user["name"] for user in listed["users"]} == {"Anna", "Boris", "Clara"}
        fields = {"user_id", "is_creator", "last_read_seq", "joined_at", "removed_at", "version"}
        assert all(set(member) == fields for member in listed["items"])

    async def test_former_members_are_not_listed(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        await transport.do(anna, "remove_member", chat_id=chat["id"], user_id=boris.id)
        assert await member_ids(transport, clara, chat["id"]) == {anna.id, clara.id}

    async def test_an_outsider_does_not_see_the_members(
        self, transport: Transport, anna: Person, boris: Person, outsider: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        assert (await transport.call(outsider, "list_members", chat_id=chat["id"])).code == "chat_not_found"


class TestAddition:
    async def test_any_member_adds_several_with_one_system_message(
        self, transport: Transport, anna: Person, boris: Person, clara: Person, outsider: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        answer = await transport.call(
            boris, "add_members", chat_id=chat["id"], user_ids=[clara.id, outsider.id, clara.id]
        )
        assert answer.status == 200
        assert (answer.data["member_count"], answer.data["message_count"]) == (4, 2)
        assert answer.data["version"] == chat["version"] + 1
        system = (await transport.history(anna, chat["id"]))[-1]
        assert (system["type"], system["sender_id"], system["client_id"]) == ("system", boris.id, None)
        assert system["system"] == {"event": "members_added", "user_ids": [clara.id, outsider.id], **NO_CHANGE}
        assert system["version"] == answer.data["version"]
        assert answer.data["updated_at"] == system["sent_at"]

    async def test_adding_present_members_changes_nothing(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await anna.forget()
        await boris.forget()
        same = await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[boris.id, anna.id])
        assert same == chat
        assert await boris.received("chats_changed") == []

    async def test_only_new_members_are_announced(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        added = await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[boris.id, clara.id])
        assert added["member_count"] == 3
        assert added["last_message"]["system"]["user_ids"] == [clara.id]

    async def test_one_unknown_user_makes_the_whole_addition_fail(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await clara.forget()
        answer = await transport.call(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id, str(uuid4())])
        assert (answer.status, answer.code) == (404, "user_not_found")
        assert await transport.do(anna, "get_chat", chat_id=chat["id"]) == chat
        assert await clara.received("chats_changed") == []

    @pytest.mark.parametrize("number", [0, 101])
    async def test_an_addition_takes_1_to_100_users(
        self, transport: Transport, anna: Person, boris: Person, number: int
    ) -> None:
        chat = await transport.create_group(anna, boris)
        answer = await transport.call(anna, "add_members", chat_id=chat["id"], user_ids=[boris.id] * number)
        assert (answer.status, answer.code) == (422, "invalid_input")

    async def test_an_outsider_adds_nobody(
        self, transport: Transport, anna: Person, boris: Person, outsider: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        answer = await transport.call(outsider, "add_members", chat_id=chat["id"], user_ids=[outsider.id])
        assert (answer.status, answer.code) == (404, "chat_not_found")
        assert await member_ids(transport, anna, chat["id"]) == {anna.id, boris.id}

    async def test_newcomers_get_both_parts_and_the_others_the_shared_part(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        for person in (anna, boris, clara):
            await person.forget()
        await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        (event,) = await clara.received("chats_changed")
        entry = await transport.do(clara, "get_chat", chat_id=chat["id"])
        assert event["mine"] == [{"chat_id": chat["id"], **entry["mine"]}]
        assert {user["id"] for user in event["users"]} >= {anna.id, clara.id}
        for person in (anna, boris):
            (event,) = await person.received("chats_changed")
            assert event["mine"] == []
            assert [(chat["member_count"], chat["message_count"]) for chat in event["chats"]] == [(3, 2)]
            assert {user["id"] for user in event["users"]} == {anna.id, clara.id}

    async def test_an_open_window_gets_the_system_message_and_the_member(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await boris.open(chat["id"])
        added = await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        (event,) = await boris.received("messages_changed")
        assert (event["since"], event["version"]) == (chat["version"], added["version"])
        assert event["message_count"] == 2 and [message["seq"] for message in event["messages"]] == [2]
        assert [(member["user_id"], member["removed_at"]) for member in event["members"]] == [(clara.id, None)]
        assert [user["id"] for user in event["users"]] == [clara.id]

    async def test_simultaneous_additions_of_one_user_add_them_once(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await clara.forget()
        answers = await transport.call_at_once(anna, 6, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        assert [answer.status for answer in answers] == [200] * 6
        after = await transport.do(anna, "get_chat", chat_id=chat["id"])
        assert (after["member_count"], after["message_count"]) == (3, 2)
        assert len(await clara.received("chats_changed")) == 1


class TestNewcomer:
    async def test_a_newcomer_sees_messages_from_their_announcement_on(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await transport.send(anna, chat["id"], "before")
        await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        await transport.send(anna, chat["id"], "after")
        page = await transport.do(clara, "list_messages", chat_id=chat["id"])
        assert [item["seq"] for item in page["items"]] == [3, 4] and not page["has_before"]
        assert await transport.history(clara, chat["id"], before=3) == []
        assert [item["seq"] for item in await transport.history(clara, chat["id"], after=0)] == [3, 4]
        assert [item["seq"] for item in await transport.history(clara, chat["id"], around=1)] == [3, 4]
        mine = (await transport.do(clara, "get_chat", chat_id=chat["id"]))["mine"]
        assert (mine["visible_from_seq"], mine["last_read_seq"], mine["unread_count"]) == (3, 3, 1)

    async def test_earlier_messages_do_not_exist_for_a_newcomer(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await transport.send(anna, chat["id"], "before")
        await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        for operation, more in (
            ("get_message", {}),
            ("like_message", {}),
            ("unlike_message", {}),
            ("list_likes", {}),
            ("edit_message", {"text": "x"}),
            ("delete_message", {}),
        ):
            for seq in (2, 99):
                answer = await transport.call(clara, operation, chat_id=chat["id"], seq=seq, **more)
                assert (answer.status, answer.code) == (404, "message_not_found"), operation
        fields = {"type": "text", "text": "?", "client_id": str(uuid4()), "reply_to": 2}
        answer = await transport.call(clara, "send_message", chat_id=chat["id"], **fields)
        assert (answer.status, answer.code) == (404, "message_not_found")

    async def test_changes_of_earlier_messages_come_without_them(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        old = await transport.send(anna, chat["id"], "before")
        joined = await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        for person in (boris, clara):
            await person.open(chat["id"])
            await person.forget()
        await transport.do(anna, "edit_message", chat_id=chat["id"], seq=old["seq"], text="secret")
        await transport.do(boris, "like_message", chat_id=chat["id"], seq=old["seq"])
        seen = await boris.received("messages_changed")
        assert [len(change["messages"]) for change in seen] == [1, 1]
        changes = await clara.received("messages_changed")
        assert [event["messages"] for event in changes] == [[], []]
        assert [event["version"] for event in changes] == [joined["version"] + 1, joined["version"] + 2]
        caught = await transport.do(clara, "list_changes", chat_id=chat["id"], since=joined["version"])
        assert (caught["messages"], caught["reset"]) == ([], False)
        assert caught["version"] == joined["version"] + 2

    async def test_a_quote_of_an_earlier_message_does_not_show_it(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        old = await transport.send(anna, chat["id"], "before")
        await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        await transport.send(boris, chat["id"], "as you said", reply_to=old["seq"])
        bounds = {"after": old["seq"] + 1}
        page = await transport.do(clara, "list_messages", chat_id=chat["id"], **bounds)
        assert [item["reply_to"] for item in page["items"]] == [old["seq"]] and page["replied"] == []
        page = await transport.do(boris, "list_messages", chat_id=chat["id"], **bounds)
        assert [item["text"] for item in page["replied"]] == ["before"]

    async def test_a_shared_history_begins_where_the_adder_sees(
        self, transport: Transport, anna: Person, boris: Person, clara: Person, outsider: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await transport.send(anna, chat["id"], "2")
        await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        await transport.send(anna, chat["id"], "4")
        await transport.do(clara, "add_members", chat_id=chat["id"], user_ids=[outsider.id], share_history=True)
        assert [item["seq"] for item in await transport.history(outsider, chat["id"])] == [3, 4, 5]
        mine = (await transport.do(outsider, "get_chat", chat_id=chat["id"]))["mine"]
        assert (mine["visible_from_seq"], mine["last_read_seq"], mine["unread_count"]) == (3, 5, 0)

    async def test_a_founder_shares_the_whole_history(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await transport.send(anna, chat["id"], "2")
        await transport.do(boris, "add_members", chat_id=chat["id"], user_ids=[clara.id], share_history=True)
        assert [item["seq"] for item in await transport.history(clara, chat["id"])] == [1, 2, 3]

    @pytest.mark.parametrize("way", ["leave", "removal"])
    async def test_a_member_who_rejoins_starts_anew(
        self, transport: Transport, anna: Person, boris: Person, clara: Person, way: str
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        await transport.do(boris, "rename_chat", chat_id=chat["id"], title="Mine")
        await transport.do(boris, "pin_chat", chat_id=chat["id"])
        muted = {"muted_until": "2100-01-01T00:00:00Z"}
        before = (await transport.do(boris, "update_mine", chat_id=chat["id"], **muted))["mine"]
        assert before["title"] and before["pinned_at"] and before["muted_until"]
        if way == "leave":
            await transport.do(boris, "leave_chat", chat_id=chat["id"])
        else:
            await transport.do(anna, "remove_member", chat_id=chat["id"], user_id=boris.id)
        await transport.send(anna, chat["id"], "while away")
        await boris.forget()
        back = await transport.do(clara, "add_members", chat_id=chat["id"], user_ids=[boris.id])
        mine = (await transport.do(boris, "get_chat", chat_id=chat["id"]))["mine"]
        assert (mine["title"], mine["pinned_at"], mine["muted_until"]) == (None, None, None)
        assert (mine["visible_from_seq"], mine["last_read_seq"], mine["unread_count"]) == (4, 4, 0)
        assert mine["version"] > before["version"]
        assert [item["seq"] for item in await transport.history(boris, chat["id"])] == [4]
        assert (await transport.do(boris, "list_changes", chat_id=chat["id"], since=0))["reset"]
        (event,) = await boris.received("chats_changed")
        assert [chat["version"] for chat in event["chats"]] == [back["version"]]
        assert event["mine"] == [{"chat_id": chat["id"], **mine}]


class TestFullGroups:
    async def test_a_group_has_256_members_at_most(
        self, transport: Transport, database: Database, anna: Person, boris: Person, clara: Person, outsider: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await fill_up(database, UUID(chat["id"]), 253)
        full = await transport.do(anna, "get_chat", chat_id=chat["id"])
        assert full["member_count"] == 255
        answer = await transport.call(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id, outsider.id])
        assert (answer.status, answer.code) == (409, "group_full")
        assert await transport.do(anna, "get_chat", chat_id=chat["id"]) == full
        assert (await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id]))["member_count"] == 256
        assert (
            await transport.call(anna, "add_members", chat_id=chat["id"], user_ids=[outsider.id])
        ).code == "group_full"
        # Present members do not count twice.
        assert (await transport.call(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])).status == 200
        assert len(await member_ids(transport, boris, chat["id"])) == 256


async def fill_up(database: Database, chat_id: UUID, number: int) -> None:
    """Write new members of a group directly to the database."""
    async with database.transaction() as db:
        chat = await db.get_one(Chat, chat_id)
        crowd = [(await UserFactory.make(db)).id for _ in range(number)]
        await members.write_memberships(db, chat, crowd, visible_from_seq=1)
        chat.member_count += number
        await db.flush()


class TestRemoval:
    async def test_the_creator_removes_a_member(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        answer = await transport.call(anna, "remove_member", chat_id=chat["id"], user_id=boris.id)
        assert (answer.status, answer.data) == (204, None)
        after = await transport.do(clara, "get_chat", chat_id=chat["id"])
        assert (after["member_count"], after["message_count"], after["version"]) == (2, 2, chat["version"] + 1)
        system = (await transport.history(clara, chat["id"]))[-1]
        assert (system["type"], system["sender_id"]) == ("system", anna.id)
        assert system["system"] == {"event": "member_removed", "user_ids": [boris.id], **NO_CHANGE}
        assert await member_ids(transport, clara, chat["id"]) == {anna.id, clara.id}

    async def test_the_removed_member_gets_the_removal_and_nothing_more(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        await boris.open(chat["id"])
        await boris.forget()
        await transport.do(anna, "remove_member", chat_id=chat["id"], user_id=boris.id)
        ((name, event),) = await boris.received_all()
        assert name == "chats_changed"
        assert event["removed"] == [{"chat_id": chat["id"], "version": chat["version"] + 1, "reason": "removed"}]
        assert event["chats"] == event["mine"] == []
        for person in (boris, clara):
            await person.forget()
        message = await transport.send(anna, chat["id"], "secret")
        await transport.do(clara, "like_message", chat_id=chat["id"], seq=message["seq"])
        assert await clara.received("chats_changed")
        assert await boris.received_all() == []

    async def test_the_chat_does_not_exist_for_a_removed_member(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        sync = (await transport.do(boris, "list_chats"))["sync"]
        await transport.do(anna, "remove_member", chat_id=chat["id"], user_id=boris.id)
        for operation in ("get_chat", "list_messages", "list_members", "pin_chat", "leave_chat"):
            assert (await transport.call(boris, operation, chat_id=chat["id"])).code == "chat_not_found"
        listed = await transport.do(boris, "list_chats", changed_since=sync)
        assert listed["items"] == []
        assert [(one["chat_id"], one["reason"]) for one in listed["removed"]] == [(chat["id"], "removed")]

    async def test_remaining_members_get_the_removal(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        await clara.open(chat["id"])
        await clara.forget()
        await transport.do(anna, "remove_member", chat_id=chat["id"], user_id=boris.id)
        (change,) = await clara.received("messages_changed")
        assert [message["system"]["event"] for message in change["messages"]] == ["member_removed"]
        ((user_id, removed_at),) = [(member["user_id"], member["removed_at"]) for member in change["members"]]
        assert user_id == boris.id and removed_at
        (change,) = await clara.received("chats_changed")
        assert [chat["member_count"] for chat in change["chats"]] == [2] and change["removed"] == []

    async def test_only_the_creator_removes_members(
        self, transport: Transport, anna: Person, boris: Person, clara: Person, outsider: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        for user_id in (clara.id, anna.id, boris.id, outsider.id):
            answer = await transport.call(boris, "remove_member", chat_id=chat["id"], user_id=user_id)
            assert (answer.status, answer.code) == (403, "not_creator")
        assert (await transport.call(outsider, "remove_member", chat_id=chat["id"], user_id=boris.id)).status == 404
        assert await transport.do(anna, "get_chat", chat_id=chat["id"]) == chat

    async def test_the_creator_does_not_remove_themselves(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        answer = await transport.call(anna, "remove_member", chat_id=chat["id"], user_id=anna.id)
        assert (answer.status, answer.code) == (409, "creator_cannot_leave")
        assert await transport.do(anna, "get_chat", chat_id=chat["id"]) == chat

    async def test_a_user_who_is_no_member_cannot_be_removed(
        self, transport: Transport, anna: Person, boris: Person, clara: Person, outsider: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        await transport.do(anna, "remove_member", chat_id=chat["id"], user_id=clara.id)
        for user_id in (outsider.id, clara.id, str(uuid4())):
            answer = await transport.call(anna, "remove_member", chat_id=chat["id"], user_id=user_id)
            assert (answer.status, answer.code) == (404, "member_not_found")
        assert (await transport.do(anna, "get_chat", chat_id=chat["id"]))["message_count"] == 2


class TestLeaving:
    async def test_a_member_leaves(self, transport: Transport, anna: Person, boris: Person, clara: Person) -> None:
        chat = await transport.create_group(anna, boris, clara)
        await boris.forget()
        answer = await transport.call(boris, "leave_chat", chat_id=chat["id"])
        assert (answer.status, answer.data) == (204, None)
        system = (await transport.history(anna, chat["id"]))[-1]
        assert (system["seq"], system["sender_id"]) == (2, boris.id)
        assert system["system"] == {"event": "member_left", "user_ids": [], **NO_CHANGE}
        after = await transport.do(anna, "get_chat", chat_id=chat["id"])
        assert (after["member_count"], after["version"]) == (2, chat["version"] + 1)
        (change,) = await boris.received("chats_changed")
        assert change["removed"] == [{"chat_id": chat["id"], "version": after["version"], "reason": "left"}]
        assert (await transport.call(boris, "get_chat", chat_id=chat["id"])).code == "chat_not_found"

    async def test_the_creator_cannot_leave(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.create_group(anna, boris)
        answer = await transport.call(anna, "leave_chat", chat_id=chat["id"])
        assert (answer.status, answer.code) == (409, "creator_cannot_leave")
        assert await transport.do(anna, "get_chat", chat_id=chat["id"]) == chat

    async def test_simultaneous_leaves_are_one_leave(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.create_group(anna, boris)
        answers = await transport.call_at_once(boris, 5, "leave_chat", chat_id=chat["id"])
        assert (
            sorted((answer.status, answer.code) for answer in answers) == [(204, None)] + [(404, "chat_not_found")] * 4
        )
        after = await transport.do(anna, "get_chat", chat_id=chat["id"])
        assert (after["member_count"], after["message_count"]) == (1, 2)


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("send_message", {"type": "text", "text": "late", "client_id": str(uuid4())}),
        ("like_message", {"seq": 1}),
        ("add_members", {"user_ids": [str(uuid4())]}),
        ("leave_chat", {}),
        ("activate_chat", {}),
    ],
)
async def test_operations_that_waited_for_a_removal_see_it(
    transport: Transport, database: Database, anna: Person, boris: Person, operation: str, arguments: dict[str, Any]
) -> None:
    chat = await transport.create_group(anna, boris)
    async with database.transaction() as db:
        creator = Actor(UUID(anna.id), anna.session_id)
        await members.remove_member(db, creator, UUID(chat["id"]), UUID(boris.id))
        late = asyncio.create_task(transport.call(boris, operation, chat_id=chat["id"], **arguments))
        await until_one_waits(database)
        assert not late.done()
    answer = await late
    assert (answer.status, answer.code) == (404, "chat_not_found")
    assert (await transport.do(anna, "get_chat", chat_id=chat["id"]))["message_count"] == 2


async def until_one_waits(database: Database) -> None:
    """Wait until a transaction waits for a lock."""
    waiters = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    async with asyncio.timeout(DEADLINE):
        while True:
            async with database.engine.connect() as connection:
                if (await connection.execute(waiters)).scalar():
                    return
            await asyncio.sleep(0.01)
