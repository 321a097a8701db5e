"""Personal state: own titles, pins and the chat list."""

import asyncio
import time
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlmodel import col, update

from chat_app.database import LONGEST_TRANSACTION, Database
from chat_app.models import Chat, Membership
from tests.clients import Person, Transport
from tests.service import MakePerson


async def ids(transport: Transport, person: Person, **arguments: Any) -> list[str]:
    """The ids of the person's chats in the order of the list."""
    return [chat["id"] for chat in (await transport.do(person, "list_chats", **arguments))["items"]]


class TestOwnTitles:
    async def test_an_own_title_is_shown_to_its_user_only(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, title="Trip")
        renamed = await transport.do(boris, "rename_chat", chat_id=chat["id"], title="Holidays")
        assert (renamed["mine"]["title"], renamed["title"]) == ("Holidays", "Trip")
        theirs = await transport.do(anna, "get_chat", chat_id=chat["id"])
        assert (theirs["mine"]["title"], theirs["title"]) == (None, "Trip")
        for taken_back in ({"title": None}, {"unset": ["title"]}):
            await transport.do(boris, "rename_chat", chat_id=chat["id"], title="Holidays")
            reset = await transport.do(boris, "rename_chat", chat_id=chat["id"], **taken_back)
            assert (reset["mine"]["title"], reset["title"]) == (None, "Trip")

    async def test_a_private_chat_can_have_an_own_title(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        renamed = await transport.do(boris, "rename_chat", chat_id=chat["id"], title="Sister")
        assert (renamed["mine"]["title"], renamed["title"]) == ("Sister", None)
        assert renamed["mine"]["peer"]["id"] == anna.id

    @pytest.mark.parametrize(
        "argument",
        [
            *({"title": title} for title in ("", " ", "x" * 101, 1)),
            *({"unset": names} for names in (["name"], ["chat_id"], ["unset"], [["title"]], "title", {"title": 1}, [])),
            {},
            {"title": "x", "unset": ["title"]},
            {"title": None, "unset": ["title"]},
        ],
        ids=str,
    )
    async def test_an_own_title_is_one_line_or_null(
        self, transport: Transport, anna: Person, boris: Person, argument: dict[str, object]
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        answer = await transport.call(anna, "rename_chat", chat_id=chat["id"], **argument)
        assert (answer.status, answer.code) == (422, "invalid_input")
        assert (await transport.do(anna, "get_chat", chat_id=chat["id"]))["mine"]["version"] == 1


class TestPins:
    async def test_a_chat_is_pinned_and_unpinned(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        pinned = await transport.do(anna, "pin_chat", chat_id=chat["id"])
        assert pinned["mine"]["pinned_at"] > chat["created_at"]
        assert (await transport.do(boris, "get_chat", chat_id=chat["id"]))["mine"]["pinned_at"] is None
        unpinned = await transport.do(anna, "unpin_chat", chat_id=chat["id"])
        assert unpinned["mine"]["pinned_at"] is None


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        ("rename_chat", {"title": "Mine"}),
        ("pin_chat", {}),
        ("unpin_chat", {}),
        ("mark_read", {"seq": 2}),
        ("update_mine", {"muted_until": "2100-01-01T00:00:00Z", "archived": True}),
    ],
)
class TestPersonalChanges:
    async def test_a_personal_change_takes_no_version_and_only_its_user_gets_an_event(
        self, transport: Transport, anna: Person, boris: Person, operation: str, more: dict[str, Any]
    ) -> None:
        before = await self.prepare(transport, anna, boris, operation)
        for person in (anna, boris):
            await person.forget()
        second = await boris.connect()
        after = await transport.do(boris, operation, chat_id=before["id"], **more)
        assert after["mine"]["version"] == before["mine"]["version"] + 1
        assert {**after, "mine": None} == {**before, "mine": None}
        await boris.settle()
        for socket in (boris.socket, second):
            (event,) = socket.named("chats_changed")
            assert event["mine"] == [{"chat_id": before["id"], **after["mine"]}]
            assert event["chats"] == event["removed"] == []
        assert await anna.received_all() == []

    async def test_a_repeated_personal_change_changes_nothing(
        self, transport: Transport, anna: Person, boris: Person, operation: str, more: dict[str, Any]
    ) -> None:
        chat = await self.prepare(transport, anna, boris, operation)
        once = await transport.do(boris, operation, chat_id=chat["id"], **more)
        await boris.forget()
        assert await transport.do(boris, operation, chat_id=chat["id"], **more) == once
        assert await boris.received_all() == []

    async def prepare(self, transport: Transport, anna: Person, boris: Person, operation: str) -> Any:
        """A group in which the operation changes something."""
        chat = await transport.create_group(anna, boris)
        await transport.send(anna, chat["id"])
        if operation == "unpin_chat":
            await transport.do(boris, "pin_chat", chat_id=chat["id"])
        return await transport.do(boris, "get_chat", chat_id=chat["id"])


class TestListOrder:
    async def test_the_latest_message_brings_a_chat_up(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        one = await transport.open_private_chat(anna, boris)
        two = await transport.open_private_chat(anna, clara)
        three = await transport.create_group(anna, boris)
        assert await ids(transport, anna) == [three["id"], two["id"], one["id"]]
        await transport.send(boris, one["id"])
        assert await ids(transport, anna) == [one["id"], three["id"], two["id"]]

    async def test_no_other_change_brings_a_chat_up(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        quiet = await transport.create_group(anna, boris)
        await transport.send(anna, quiet["id"], "old")
        latest = await transport.open_private_chat(anna, clara)
        before = (await transport.do(anna, "get_chat", chat_id=quiet["id"]))["updated_at"]
        await transport.do(boris, "like_message", chat_id=quiet["id"], seq=2)
        await transport.do(anna, "edit_message", chat_id=quiet["id"], seq=2, text="new")
        await transport.do(anna, "delete_message", chat_id=quiet["id"], seq=2)
        await transport.do(anna, "rename_chat", chat_id=quiet["id"], title="Mine")
        await transport.do(boris, "mark_read", chat_id=quiet["id"], seq=2)
        assert (await transport.do(anna, "get_chat", chat_id=quiet["id"]))["updated_at"] == before
        assert await ids(transport, anna) == [latest["id"], quiet["id"]]

    async def test_pinned_chats_come_first_the_latest_pin_on_top(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        one = await transport.open_private_chat(anna, boris)
        two = await transport.open_private_chat(anna, clara)
        three = await transport.create_group(anna, boris)
        await transport.do(anna, "pin_chat", chat_id=two["id"])
        await transport.do(anna, "pin_chat", chat_id=one["id"])
        await transport.do(anna, "pin_chat", chat_id=two["id"])
        await transport.send(boris, three["id"])
        assert await ids(transport, anna) == [one["id"], two["id"], three["id"]]
        await transport.do(anna, "unpin_chat", chat_id=one["id"])
        assert await ids(transport, anna) == [two["id"], three["id"], one["id"]]
        assert await ids(transport, boris) == [three["id"], one["id"]]

    async def test_chats_updated_at_the_same_time_are_ordered_by_id(
        self, transport: Transport, database: Database, anna: Person, make_person: MakePerson
    ) -> None:
        chats = [await transport.open_private_chat(anna, await make_person()) for _ in range(4)]
        async with database.transaction() as db:
            first = await db.get_one(Chat, UUID(chats[0]["id"]))
            wanted = col(Chat.id).in_([UUID(chat["id"]) for chat in chats])
            await db.exec(update(Chat).where(wanted).values(updated_at=first.updated_at))
        expected = sorted(chat["id"] for chat in chats)
        assert await ids(transport, anna) == expected
        page = await transport.do(anna, "list_chats", limit=2)
        assert await ids(transport, anna, limit=2, cursor=page["next_cursor"]) == expected[2:]


class TestPages:
    async def test_pages_have_each_chat_once(self, transport: Transport, anna: Person, make_person: MakePerson) -> None:
        people = [await make_person(f"Person {number}") for number in range(7)]
        chats = [await transport.open_private_chat(anna, person) for person in people]
        for number in (1, 5, 3):
            await transport.do(anna, "pin_chat", chat_id=chats[number]["id"])
        whole = await ids(transport, anna)
        assert whole == [chats[number]["id"] for number in (3, 5, 1, 6, 4, 2, 0)]
        for limit in (1, 2, 3, 7):
            found: list[str] = []
            arguments: dict[str, Any] | None = {}
            while arguments is not None:
                page = await transport.do(anna, "list_chats", limit=limit, **arguments)
                assert 0 < len(page["items"]) <= limit
                found += [chat["id"] for chat in page["items"]]
                arguments = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
            assert found == whole

    async def test_a_malformed_cursor_or_limit_is_refused(self, transport: Transport, anna: Person) -> None:
        for argument in (
            {"cursor": "x"},
            {"cursor": ""},
            {"cursor": "MXwxfHg="},
            {"cursor": "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTl8MXwwMDAwMDAwMC0wMDAwLTAwMDAtMDAwMC0wMDAwMDAwMDAwMDA="},
            {"limit": 0},
            {"limit": 101},
            {"limit": "x"},
            {"changed_since": "x"},
            {"changed_since": "9" * 40},
        ):
            answer = await transport.call(anna, "list_chats", **argument)
            assert (answer.status, answer.code) == (422, "invalid_input"), argument

    async def test_a_page_has_all_users_that_its_chats_refer_to(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        await transport.do(boris, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        listed = await transport.do(anna, "list_chats")
        assert set(listed) == {"items", "removed", "users", "next_cursor", "sync", "unread"}
        assert {user["name"] for user in listed["users"]} == {"Anna", "Boris", "Clara"}
        assert listed["removed"] == [] and listed["next_cursor"] is None


class TestByIds:
    async def test_the_own_chats_of_these_ids_are_on_one_page(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        pinned, other = await transport.create_group(anna, boris), await transport.open_private_chat(anna, clara)
        foreign, left = await transport.create_group(boris, clara), await transport.create_group(boris, anna)
        await transport.open_private_chat(anna, boris)
        await transport.do(anna, "leave_chat", chat_id=left["id"])
        await transport.do(anna, "pin_chat", chat_id=pinned["id"])
        wanted = [chat["id"] for chat in (other, foreign, left, pinned, other)] + [str(uuid4())]
        for more in ({}, {"limit": 1}):
            listed = await transport.do(anna, "list_chats", ids=wanted, **more)
            assert [chat["id"] for chat in listed["items"]] == [pinned["id"], other["id"]]
            assert (listed["next_cursor"], listed["removed"]) == (None, [])
            assert {user["id"] for user in listed["users"]} == {anna.id, boris.id}
        entries = [await transport.do(anna, "get_chat", chat_id=chat["id"]) for chat in (pinned, other)]
        assert listed["items"] == entries

    async def test_ids_go_alone_and_are_100_at_most(self, transport: Transport, anna: Person, boris: Person) -> None:
        chats = [(await transport.create_group(anna, boris))["id"] for _ in range(2)]
        first = await transport.do(anna, "list_chats", limit=1)
        for more in ({"cursor": first["next_cursor"]}, {"changed_since": first["sync"]}):
            answer = await transport.call(anna, "list_chats", ids=chats, **more)
            assert (answer.status, answer.code) == (422, "invalid_input")
        many = [*chats, *(str(uuid4()) for _ in range(98))]
        assert len((await transport.do(anna, "list_chats", ids=many))["items"]) == 2
        for refused in ([*many, str(uuid4())], ["x"], [1]):
            assert (await transport.call(anna, "list_chats", ids=refused)).code == "invalid_input"


class TestChangedSince:
    async def test_an_equal_sync_means_that_nothing_was_missed(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        await transport.create_group(anna, boris)
        sync = (await transport.do(anna, "list_chats"))["sync"]
        assert (await transport.do(anna, "list_chats"))["sync"] == sync
        assert (await anna.connect()).named("ready")[0]["sync"] == sync

    async def test_every_change_makes_another_sync(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        seen = [(await transport.do(boris, "list_chats"))["sync"]]
        for person, operation, more in (
            (anna, "send_message", {"type": "text", "text": "x", "client_id": "00000000-0000-7000-8000-000000000001"}),
            (anna, "edit_message", {"seq": 2, "text": "y"}),
            (anna, "like_message", {"seq": 2}),
            (anna, "unlike_message", {"seq": 2}),
            (anna, "delete_message", {"seq": 2}),
            (boris, "mark_read", {"seq": 2}),
            (boris, "rename_chat", {"title": "Mine"}),
            (boris, "pin_chat", {}),
            (boris, "unpin_chat", {}),
            (clara, "leave_chat", {}),
            (anna, "add_members", {"user_ids": [clara.id]}),
            (anna, "remove_member", {"user_id": boris.id}),
            (clara, "add_members", {"user_ids": [boris.id]}),
            (anna, "delete_chat", {}),
        ):
            await transport.do(person, operation, chat_id=chat["id"], **more)
            seen.append((await transport.do(boris, "list_chats"))["sync"])
            assert len(set(seen)) == len(seen), operation

    async def test_only_chats_with_shared_or_own_changes_are_listed(
        self, transport: Transport, database: Database, anna: Person, boris: Person, make_person: MakePerson
    ) -> None:
        chats = [await transport.open_private_chat(anna, await make_person()) for _ in range(3)]
        shared, personal, quiet = [chat["id"] for chat in chats]
        left = (await transport.create_group(boris, anna))["id"]
        await age(database, [shared, personal, quiet, left])
        fresh = (await transport.create_group(anna, boris))["id"]
        sync = (await transport.do(anna, "list_chats"))["sync"]
        assert await ids(transport, anna, changed_since=sync) == [fresh]
        await transport.send(anna, shared)
        await transport.do(anna, "pin_chat", chat_id=personal)
        await transport.do(anna, "leave_chat", chat_id=left)
        listed = await transport.do(anna, "list_chats", changed_since=sync)
        assert quiet not in {chat["id"] for chat in listed["items"]}
        # Ordered by id, so that no chat that changes between two pages is missed.
        assert [chat["id"] for chat in listed["items"]] == sorted([shared, personal, fresh])
        assert [(one["chat_id"], one["reason"]) for one in listed["removed"]] == [(left, "left")]

    async def test_the_first_page_has_all_removed_chats(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        groups = [await transport.create_group(boris, anna) for _ in range(5)]
        sync = (await transport.do(anna, "list_chats"))["sync"]
        for group in groups[:3]:
            await transport.do(boris, "remove_member", chat_id=group["id"], user_id=anna.id)
        first = await transport.do(anna, "list_chats", changed_since=sync, limit=1)
        assert {one["chat_id"] for one in first["removed"]} == {group["id"] for group in groups[:3]}
        assert {one["version"] for one in first["removed"]} == {groups[0]["version"] + 1}
        second = await transport.do(anna, "list_chats", changed_since=sync, limit=1, cursor=first["next_cursor"])
        assert second["removed"] == [] and len(second["items"]) == 1
        assert (await transport.do(anna, "list_chats"))["removed"] == []

    async def test_a_change_made_before_the_list_and_committed_after_it_is_not_missed(
        self, transport: Transport, database: Database, anna: Person, boris: Person
    ) -> None:
        early, late = await transport.open_private_chat(anna, boris), await transport.create_group(anna, boris)
        await age(database, [early["id"], late["id"]])
        before = await transport.send(anna, early["id"])
        await transport.send(anna, late["id"])
        sync = (await transport.do(anna, "list_chats"))["sync"]
        # As after a late commit: the time of the change is before the sync.
        async with database.transaction() as db:
            chat = await db.get_one(Chat, UUID(early["id"]))
            assert chat.version == before["version"]
            chat.version += 1
        after = await transport.do(anna, "list_chats", changed_since=sync)
        assert after["sync"] != sync
        assert early["id"] in {one["id"] for one in after["items"]}


class TestSync:
    """A `sync` finds all missed changes, for all numbers and after changes of the database's clock."""

    @pytest.mark.parametrize("total", [10_000, 20_000, 1_000_000])
    async def test_a_sync_of_round_numbers_is_accepted(
        self, transport: Transport, database: Database, anna: Person, boris: Person, total: int
    ) -> None:
        group = await transport.create_group(boris, anna)
        (sum_of_others,) = await run(
            database, "SELECT chat.version + membership.version FROM chat JOIN membership ON chat_id = id", anna, group
        )
        await run(database, f"UPDATE membership SET mine_version = {total - sum_of_others}", anna, group)
        sync = (await transport.do(anna, "list_chats"))["sync"]
        assert (await anna.connect()).named("ready")[0]["sync"] == sync
        await transport.do(boris, "remove_member", chat_id=group["id"], user_id=anna.id)
        listed = await transport.do(anna, "list_chats", changed_since=sync)
        assert [one["chat_id"] for one in listed["removed"]] == [group["id"]]

    async def test_a_sync_of_former_releases_gets_the_whole_list(
        self, transport: Transport, database: Database, anna: Person, boris: Person
    ) -> None:
        kept, left = await transport.open_private_chat(anna, boris), await transport.create_group(boris, anna)
        await transport.do(anna, "leave_chat", chat_id=left["id"])
        await age(database, [kept["id"], left["id"]])
        now = round(time.time() * 1_000_000)
        for sync in (f"{now}.1E+4", f"{now}.12"):
            listed = await transport.do(anna, "list_chats", changed_since=sync)
            assert [chat["id"] for chat in listed["items"]] == [kept["id"]]
            assert [one["chat_id"] for one in listed["removed"]] == [left["id"]]
        # A client that does not escape the plus sends a space.
        response = await anna.http.get(f"/api/v1/chats?changed_since={now}.1E+4")
        assert [chat["id"] for chat in response.json()["items"]] == [kept["id"]]

    @pytest.mark.parametrize("clock", ["still behind", "past its former time"])
    async def test_a_sync_finds_changes_made_after_the_clock_was_set_back(
        self, transport: Transport, database: Database, anna: Person, boris: Person, make_person: MakePerson, clock: str
    ) -> None:
        private = [(await transport.open_private_chat(anna, await make_person()))["id"] for _ in range(4)]
        groups = [(await transport.create_group(boris, anna))["id"] for _ in range(3)]
        messages, pinned, _quiet, later = private
        kept_group, *removed = groups
        await age(database, private + groups, hours=3)
        # As if the clock had been two hours ahead until now.
        await age(database, [later], hours=-5)
        sync = (await transport.do(anna, "list_chats"))["sync"]
        await transport.send(anna, messages)
        await transport.do(anna, "pin_chat", chat_id=pinned)
        await transport.do(boris, "rename_chat", chat_id=kept_group, title="Boris's own")
        await transport.do(boris, "remove_member", chat_id=removed[0], user_id=anna.id)
        await transport.do(boris, "delete_chat", chat_id=removed[1])
        if clock == "past its former time":
            await transport.send(anna, later)
            await age(database, [later], hours=-3)
        pages = [await transport.do(anna, "list_chats", changed_since=sync, limit=1)]
        while cursor := pages[-1]["next_cursor"]:
            pages.append(await transport.do(anna, "list_chats", changed_since=sync, limit=1, cursor=cursor))
        found = [chat["id"] for page in pages for chat in page["items"]]
        # The newest change is within the time allowed for late commits.
        assert found == sorted([messages, pinned, later])
        assert {one["chat_id"] for one in pages[0]["removed"]} == set(removed)
        assert (await transport.do(anna, "list_chats", changed_since=pages[0]["sync"], limit=1))["sync"] == pages[0][
            "sync"
        ]

    async def test_a_sync_of_another_server_gets_the_whole_list(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        ahead = f"{round(time.time() * 1_000_000) + 10**12}.1.{10**12}"
        assert await ids(transport, anna, changed_since=ahead) == [chat["id"]]


async def run(database: Database, statement: str, person: Person, chat: dict[str, Any]) -> list[Any]:
    """Run a statement on one membership. Returns the first row, if there is one."""
    async with database.raw_transaction() as batch:
        await batch.connection.execute("BEGIN")
        which = "WHERE chat_id = $1 AND user_id = $2"
        rows = await batch.fetch(f"{statement} {which}", UUID(chat["id"]), UUID(person.id))
    return list(rows[0]) if rows else []


async def age(database: Database, chat_ids: list[str], **ago: float) -> None:
    """Move all times of these chats into the past, by default beyond the time allowed for late commits."""
    past = timedelta(**ago) if ago else 2 * LONGEST_TRANSACTION
    wanted = [UUID(chat_id) for chat_id in chat_ids]
    async with database.transaction() as db:
        await db.exec(
            update(Chat)
            .where(col(Chat.id).in_(wanted))
            .values(changed_at=Chat.changed_at - past, updated_at=Chat.updated_at - past)
        )
        await db.exec(
            update(Membership)
            .where(col(Membership.chat_id).in_(wanted))
            .values(changed_at=Membership.changed_at - past)
        )


async def test_simultaneous_pins_of_several_chats_all_stay(
    transport: Transport, anna: Person, make_person: MakePerson
) -> None:
    chats = [await transport.open_private_chat(anna, await make_person()) for _ in range(5)]
    await asyncio.gather(*(transport.do(anna, "pin_chat", chat_id=chat["id"]) for chat in chats))
    assert all(chat["mine"]["pinned_at"] for chat in (await transport.do(anna, "list_chats"))["items"])
