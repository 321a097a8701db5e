"""Reading a chat: pages of the history, and changes since a version."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlmodel import col, update

from chat_app.crud.history import TOO_FAR_BACK
from chat_app.crud.messages import Draft, send_messages
from chat_app.database import Database
from chat_app.models import Chat
from chat_app.models.messages import TextCreate
from chat_app.models.sessions import Actor
from tests.clients import Person, Transport

# Bounds, first and last seq of the page, has_before and has_after, in a chat with 20 messages.
PAGES: list[tuple[dict[str, int], int, int, bool, bool]] = [
    ({}, 1, 20, False, False),
    ({"limit": 5}, 16, 20, True, False),
    ({"limit": 20}, 1, 20, False, False),
    ({"limit": 19}, 2, 20, True, False),
    ({"before": 16, "limit": 5}, 11, 15, True, True),
    ({"before": 6, "limit": 5}, 1, 5, False, True),
    ({"before": 3, "limit": 5}, 1, 2, False, True),
    ({"before": 1}, 1, 0, False, True),
    ({"before": 0}, 1, 0, False, True),
    ({"before": 21, "limit": 2}, 19, 20, True, False),
    ({"before": 2**53 - 1, "limit": 2}, 19, 20, True, False),
    ({"after": 0, "limit": 3}, 1, 3, False, True),
    ({"after": 5, "limit": 3}, 6, 8, True, True),
    ({"after": 17, "limit": 3}, 18, 20, True, False),
    ({"after": 18, "limit": 3}, 19, 20, True, False),
    ({"after": 20}, 1, 0, True, False),
    ({"after": 2**53 - 1}, 1, 0, True, False),
    ({"around": 10, "limit": 5}, 8, 12, True, True),
    ({"around": 10, "limit": 1}, 10, 10, True, True),
    ({"around": 10, "limit": 4}, 8, 11, True, True),
    ({"around": 1, "limit": 5}, 1, 5, False, True),
    ({"around": 20, "limit": 5}, 16, 20, True, False),
    ({"around": 99, "limit": 5}, 16, 20, True, False),
    ({"around": 10, "limit": 100}, 1, 20, False, False),
]
IMPOSSIBLE: list[dict[str, Any]] = [
    {"before": 2, "after": 1},
    {"before": 2, "around": 1},
    {"after": 2, "around": 1},
    {"before": 0, "after": 0, "around": 0},
    {"limit": 0},
    {"limit": 101},
    {"limit": -1},
    {"before": -1},
    {"after": 2**63},
    {"around": 2**64},
    {"before": "x"},
    {"around_time": "2026-11-21T09:15:42Z", "around": 1},
    {"around_time": "2026-11-21T09:15:42"},
    {"around_time": "2026-11-21"},
    {"around_time": "1999-12-31T23:59:59Z"},
    {"around_time": "9999-01-01T00:00:00Z"},
    {"around_time": "x"},
]


async def fill(database: Database, person: Person, chat_id: str, number: int) -> None:
    """Send many messages in one batch."""
    actor = Actor(UUID(person.id), person.session_id)
    texts = [TextCreate(type="text", text=f"{n}", client_id=uuid4()) for n in range(number)]
    async with database.transaction() as db:
        await send_messages(db, [Draft(actor, UUID(chat_id), text) for text in texts])


def seqs(page: dict[str, Any]) -> tuple[list[int], bool, bool]:
    """The seqs of a page, has_before and has_after."""
    return [item["seq"] for item in page["items"]], page["has_before"], page["has_after"]


class TestPages:
    async def test_bounds_are_exclusive_and_pages_full(
        self, transport: Transport, database: Database, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await fill(database, anna, chat["id"], 20)
        for bounds, first, last, has_before, has_after in PAGES:
            page = await transport.do(boris, "list_messages", chat_id=chat["id"], **bounds)
            assert seqs(page) == (list(range(first, last + 1)), has_before, has_after), bounds

    async def test_a_page_has_50_messages_by_default(
        self, transport: Transport, database: Database, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await fill(database, anna, chat["id"], 51)
        page = await transport.do(boris, "list_messages", chat_id=chat["id"])
        assert seqs(page) == (list(range(2, 52)), True, False)
        assert page["version"] == (await transport.do(boris, "get_chat", chat_id=chat["id"]))["version"]
        assert set(page) == {"items", "has_before", "has_after", "version", "users", "replied"}

    async def test_a_page_has_all_users_that_it_refers_to(
        self, transport: Transport, anna: Person, boris: Person, clara: Person, outsider: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        await transport.do(boris, "add_members", chat_id=chat["id"], user_ids=[outsider.id])
        page = await transport.do(anna, "list_messages", chat_id=chat["id"], limit=1)
        assert {user["id"] for user in page["users"]} == {boris.id, outsider.id}
        assert all(set(user) == {"id", "name", "avatar"} for user in page["users"])

    async def test_a_page_around_a_time_begins_at_the_first_message_of_that_time_or_later(
        self, transport: Transport, database: Database, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        where = {"chat_id": chat["id"]}
        await fill(database, anna, chat["id"], 19)
        at = datetime(2026, 1, 1, 12, tzinfo=UTC)
        async with database.transaction() as db:
            minutes = "UPDATE message SET sent_at = $2::timestamptz + seq * interval '1 minute' WHERE chat_id = $1"
            await db.fetch(minutes, UUID(chat["id"]), at)
        for minute, seq in ((-60, 1), (1, 1), (1.5, 2), (2, 2), (10, 10), (10.01, 11), (19.5, 20), (20, 20), (99, 20)):
            time = (at + timedelta(minutes=minute)).isoformat()
            page = await transport.do(boris, "list_messages", **where, around_time=time, limit=5)
            assert page == await transport.do(boris, "list_messages", **where, around=seq, limit=5), minute
        page = await transport.do(boris, "list_messages", **where, around_time=time.replace("+00:00", "Z"))
        assert len(page["items"]) == 20
        await transport.do(anna, "add_members", **where, user_ids=[clara.id])
        page = await transport.do(clara, "list_messages", **where, around_time=at.isoformat())
        assert seqs(page) == ([21], False, False), "what was before the visible start is not shown"
        empty = await transport.open_private_chat(anna, boris)
        page = await transport.do(boris, "list_messages", chat_id=empty["id"], around_time=at.isoformat())
        assert seqs(page) == ([], False, False)

    async def test_impossible_bounds_are_refused(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        for bounds in IMPOSSIBLE:
            answer = await transport.call(anna, "list_messages", chat_id=chat["id"], **bounds)
            assert (answer.status, answer.code) == (422, "invalid_input"), bounds

    async def test_one_message_can_be_read_by_its_seq(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        sent = await transport.send(anna, chat["id"])
        assert await transport.do(boris, "get_message", chat_id=chat["id"], seq=1) == sent
        answer = await transport.call(boris, "get_message", chat_id=chat["id"], seq=2)
        assert (answer.status, answer.code) == (404, "message_not_found")
        for seq in (0, -1, 2**63):
            assert (await transport.call(boris, "get_message", chat_id=chat["id"], seq=seq)).status == 422


class TestChanges:
    async def test_a_founder_reads_changes_since_the_beginning(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await transport.send(anna, chat["id"])
        caught = await transport.do(boris, "list_changes", chat_id=chat["id"], since=0)
        fields = {"since", "version", "message_count", "messages", "members", "users", "replied", "has_more", "reset"}
        assert set(caught) == fields
        assert (caught["since"], caught["version"]) == (0, chat["version"] + 1)
        assert (caught["message_count"], caught["has_more"], caught["reset"]) == (2, False, False)
        assert [message["seq"] for message in caught["messages"]] == [1, 2]
        assert {member["user_id"] for member in caught["members"]} == {anna.id, boris.id}
        assert {user["id"] for user in caught["users"]} == {anna.id, boris.id}
        assert caught["messages"] == await transport.history(boris, chat["id"])

    async def test_all_kinds_of_changes_come_in_the_order_of_versions(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        for text in ("2", "3", "4"):
            sent = await transport.send(anna, chat["id"], text)
        since = sent["version"]
        await transport.do(anna, "edit_message", chat_id=chat["id"], seq=4, text="edited")
        await transport.do(boris, "like_message", chat_id=chat["id"], seq=3)
        await transport.do(anna, "delete_message", chat_id=chat["id"], seq=2)
        await transport.do(anna, "remove_member", chat_id=chat["id"], user_id=clara.id)
        caught = await transport.do(boris, "list_changes", chat_id=chat["id"], since=since)
        assert [(one["version"], one["seq"]) for one in caught["messages"]] == [
            (since + 1, 4),
            (since + 2, 3),
            (since + 3, 2),
            (since + 4, 5),
        ]
        edited, liked, deleted, system = caught["messages"]
        assert edited["text"] == "edited" and liked["liked"] and deleted["deleted_at"]
        assert system["system"]["event"] == "member_removed"
        (member,) = caught["members"]
        assert (member["user_id"], member["version"]) == (clara.id, since + 4) and member["removed_at"]
        assert {user["id"] for user in caught["users"]} == {anna.id, clara.id}
        assert caught["version"] == since + 4

    async def test_changes_return_state_and_not_a_log(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        sent = await transport.send(anna, chat["id"])
        for text in ("one", "two"):
            await transport.do(anna, "edit_message", chat_id=chat["id"], seq=1, text=text)
        caught = await transport.do(boris, "list_changes", chat_id=chat["id"], since=sent["version"])
        assert [(one["text"], one["version"]) for one in caught["messages"]] == [("two", sent["version"] + 2)]

    async def test_changes_since_the_current_version_are_empty(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        sent = await transport.send(anna, chat["id"])
        caught = await transport.do(boris, "list_changes", chat_id=chat["id"], since=sent["version"])
        assert (caught["messages"], caught["members"], caught["users"]) == ([], [], [])
        assert (caught["version"], caught["has_more"], caught["reset"]) == (sent["version"], False, False)

    async def test_pages_of_changes_follow_each_other_to_the_end(
        self, transport: Transport, database: Database, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await fill(database, anna, chat["id"], 9)
        await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        since, found, more, pages = chat["version"], [], True, 0
        while more:
            page = await transport.do(boris, "list_changes", chat_id=chat["id"], since=since, limit=3)
            assert len(page["messages"]) <= 3
            assert all(since < row["version"] <= page["version"] for row in page["messages"] + page["members"])
            found += [message["seq"] for message in page["messages"]]
            members, since, more, pages = page["members"], page["version"], page["has_more"], pages + 1
        assert found == list(range(2, 12)) and pages == 4
        assert [member["user_id"] for member in members] == [clara.id]
        assert since == (await transport.do(boris, "get_chat", chat_id=chat["id"]))["version"]

    async def test_a_page_has_100_changes_by_default(
        self, transport: Transport, database: Database, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await fill(database, anna, chat["id"], 101)
        caught = await transport.do(boris, "list_changes", chat_id=chat["id"], since=0)
        assert len(caught["messages"]) == 100 and caught["has_more"]
        assert caught["message_count"] == 101

    @pytest.mark.parametrize("above", [1, 1000])
    async def test_a_future_version_resets(self, transport: Transport, anna: Person, boris: Person, above: int) -> None:
        chat = await transport.create_group(anna, boris)
        caught = await transport.do(boris, "list_changes", chat_id=chat["id"], since=chat["version"] + above)
        assert caught["reset"] and caught["version"] == chat["version"]
        assert (caught["messages"], caught["members"], caught["users"]) == ([], [], [])

    async def test_a_version_before_the_own_joining_resets(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        joined = await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id], share_history=True)
        caught = await transport.do(clara, "list_changes", chat_id=chat["id"], since=joined["version"] - 1)
        assert caught["reset"] and caught["messages"] == caught["members"] == []
        await transport.send(anna, chat["id"])
        caught = await transport.do(clara, "list_changes", chat_id=chat["id"], since=joined["version"])
        assert not caught["reset"] and [message["seq"] for message in caught["messages"]] == [3]

    async def test_a_version_too_far_back_resets(
        self, transport: Transport, database: Database, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        version = TOO_FAR_BACK + 5
        async with database.transaction() as db:
            await db.exec(update(Chat).where(col(Chat.id) == UUID(chat["id"])).values(version=version))
        assert (await transport.do(boris, "list_changes", chat_id=chat["id"], since=4))["reset"]
        assert not (await transport.do(boris, "list_changes", chat_id=chat["id"], since=5))["reset"]

    async def test_a_malformed_version_is_refused(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        for more in ({}, {"since": -1}, {"since": 2**63}, {"since": 0, "limit": 101}):
            answer = await transport.call(anna, "list_changes", chat_id=chat["id"], **more)
            assert (answer.status, answer.code) == (422, "invalid_input"), more

    async def test_an_outsider_sees_no_changes(
        self, transport: Transport, anna: Person, boris: Person, outsider: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        assert (await transport.call(outsider, "list_changes", chat_id=chat["id"], since=0)).code == "chat_not_found"
