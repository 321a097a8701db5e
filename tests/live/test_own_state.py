"""A member's own part of a chat: muting, archive, mark, draft, and the cleared view."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text as sql

from chat_app.database import Database
from tests.clients import Person, Transport
from tests.operations import wait_for_lock_waiter

Json = dict[str, Any]

LATER, PAST = "2100-01-01T00:00:00Z", "2001-01-01T00:00:00Z"
NOTHING = {"muted_until": None, "archived_at": None, "marked_unread": False, "draft": None, "hidden": False}


def own(chat: Json) -> Json:
    """These five fields, the draft without its time."""
    mine = {name: chat["mine"][name] for name in NOTHING}
    draft = mine["draft"] and {name: mine["draft"][name] for name in ("text", "reply_to")}
    return mine | {"draft": draft, "archived_at": bool(mine["archived_at"])}


def after(**fields: Any) -> Json:
    return NOTHING | {"archived_at": False} | fields


async def listed(transport: Transport, person: Person, **arguments: Any) -> list[str]:
    """The ids of the person's list."""
    return [chat["id"] for chat in (await transport.do(person, "list_chats", **arguments))["items"]]


@pytest.fixture
async def group(transport: Transport, anna: Person, boris: Person, clara: Person) -> str:
    """Anna's group: the message that founded it, and two texts of Anna's."""
    chat = await transport.create_group(anna, boris, clara)
    for _ in range(2):
        await transport.send(anna, chat["id"])
    return str(chat["id"])


class TestUpdating:
    @pytest.mark.parametrize(
        ("sent", "expected"),
        [
            ({"muted_until": LATER}, {"muted_until": LATER}),
            ({"muted_until": "2100-01-01T03:00:00+03:00"}, {"muted_until": LATER}),
            ({"archived": True}, {"archived_at": True}),
            ({"marked_unread": True}, {"marked_unread": True}),
            ({"draft": {"text": "and then"}}, {"draft": {"text": "and then", "reply_to": None}}),
            ({"draft": {"text": "", "reply_to": 3}}, {"draft": {"text": "", "reply_to": 3}}),
            ({"draft": {"text": "x" * 2000}}, {"draft": {"text": "x" * 2000, "reply_to": None}}),
        ],
        ids=str,
    )
    async def test_a_field_is_set_and_the_same_again_is_nothing(
        self, transport: Transport, boris: Person, anna: Person, group: str, sent: Json, expected: Json
    ) -> None:
        before = await transport.do(boris, "get_chat", chat_id=group)
        assert own(before) == after()
        for person in (boris, anna):
            await person.forget()
        chat = await transport.do(boris, "update_mine", chat_id=group, **sent)
        assert own(chat) == after(**expected)
        assert chat["mine"]["version"] == before["mine"]["version"] + 1 and chat["version"] == before["version"]
        (event,) = await boris.received("chats_changed")
        assert event["mine"] == [{"chat_id": group, **chat["mine"]}] and event["chats"] == []
        assert await transport.do(boris, "update_mine", chat_id=group, **sent) == chat
        assert len(await boris.received_all()) == 1 and await anna.received_all() == []
        (field,) = sent
        for taken_back in ({field: None}, {"unset": [field]}):
            await transport.do(boris, "update_mine", chat_id=group, **sent)
            assert own(await transport.do(boris, "update_mine", chat_id=group, **taken_back)) == after()

    async def test_what_is_not_sent_stays(self, transport: Transport, boris: Person, group: str) -> None:
        everything = {"title": "Mine", "muted_until": LATER, "archived": True, "marked_unread": True}
        first = await transport.do(
            boris, "update_mine", chat_id=group, **everything, draft={"text": "x", "reply_to": 1}
        )
        assert first["mine"]["title"] == "Mine" and first["mine"]["version"] == 2, "all of it is one change"
        second = await transport.do(boris, "update_mine", chat_id=group, title="Ours")
        assert second["mine"] == first["mine"] | {"title": "Ours", "version": 3}
        third = await transport.do(boris, "update_mine", chat_id=group, archived=False, marked_unread=False)
        assert own(third) == own(first) | {"archived_at": False, "marked_unread": False}

    async def test_muting_until_a_time_in_the_past_is_null(
        self, transport: Transport, boris: Person, group: str
    ) -> None:
        assert own(await transport.do(boris, "update_mine", chat_id=group, muted_until=PAST)) == after()
        await transport.do(boris, "update_mine", chat_id=group, muted_until=LATER)
        assert own(await transport.do(boris, "update_mine", chat_id=group, muted_until=PAST)) == after()

    async def test_the_same_draft_again_keeps_its_time(self, transport: Transport, boris: Person, group: str) -> None:
        drafts = [{"text": "one"}, {"text": "one", "reply_to": None}, {"text": "one", "reply_to": 2}, {"text": "two"}]
        times = [
            (await transport.do(boris, "update_mine", chat_id=group, draft=draft))["mine"]["draft"]["updated_at"]
            for draft in drafts
        ]
        assert times[0] == times[1] < times[2] < times[3]
        assert datetime.fromisoformat(times[3]) > datetime.now(UTC) - timedelta(minutes=1)

    @pytest.mark.parametrize(
        "wrong",
        [
            {},
            {"muted_until": 1_900_000_000},
            {"muted_until": "2100-01-01T00:00:00"},
            {"muted_until": "1999-12-31T00:00:00Z"},
            {"muted_until": "9999-12-31T00:00:00Z"},
            {"muted_until": "tomorrow"},
            {"archived": "yes"},
            {"archived": 1},
            {"marked_unread": "true"},
            {"draft": "text"},
            {"draft": {}},
            {"draft": {"text": None}},
            {"draft": {"text": "x" * 2001}},
            {"draft": {"text": "nul\x00"}},
            {"draft": {"text": "x", "reply_to": 0}},
            {"draft": {"text": "x", "updated_at": LATER}},
            {"hidden": True},
            {"archived_at": LATER},
            {"unset": ["hidden"]},
            {"unset": ["draft"], "draft": None},
        ],
        ids=str,
    )
    async def test_other_input_is_refused(self, transport: Transport, boris: Person, group: str, wrong: Json) -> None:
        answer = await transport.call(boris, "update_mine", chat_id=group, **wrong)
        assert (answer.status, answer.code) == (422, "invalid_input")
        assert (await transport.do(boris, "get_chat", chat_id=group))["mine"]["version"] == 1

    async def test_a_draft_answers_a_message_that_one_sees(
        self, transport: Transport, anna: Person, boris: Person, group: str
    ) -> None:
        for unseen in (4, 1000):
            draft = {"text": "x", "reply_to": unseen}
            answer = await transport.call(boris, "update_mine", chat_id=group, draft=draft)
            assert (answer.status, answer.code) == (404, "message_not_found")
        await transport.do(boris, "clear_chat", chat_id=group)
        answer = await transport.call(boris, "update_mine", chat_id=group, draft={"text": "x", "reply_to": 3})
        assert (answer.status, answer.code) == (404, "message_not_found")
        await transport.send(anna, group)
        chat = await transport.do(boris, "update_mine", chat_id=group, draft={"text": "x", "reply_to": 4})
        assert own(chat)["draft"] == {"text": "x", "reply_to": 4}

    async def test_a_draft_waits_for_a_clearing_and_does_not_answer_what_it_hides(
        self, transport: Transport, boris: Person, group: str, database: Database
    ) -> None:
        async with database.engine.connect() as holder:
            hide = "UPDATE membership SET visible_from_seq = 4 WHERE chat_id = :chat AND user_id = :user"
            await holder.execute(sql(hide), {"chat": group, "user": boris.id})
            draft = {"text": "x", "reply_to": 3}
            asking = asyncio.create_task(transport.call(boris, "update_mine", chat_id=group, draft=draft))
            await wait_for_lock_waiter(holder)
            await holder.commit()
        assert (await asking).code == "message_not_found"


class TestTakingBack:
    """Reading and writing take the mark back, and a message the draft."""

    @pytest.fixture
    async def marked(self, transport: Transport, boris: Person, anna: Person, group: str) -> Json:
        """Boris has read all of the group, marked it, and begun to write."""
        await transport.do(boris, "mark_read", chat_id=group, seq=3)
        chat = await transport.do(boris, "update_mine", chat_id=group, marked_unread=True, draft={"text": "x"})
        assert chat["mine"]["unread_count"] == 0 and chat["mine"]["marked_unread"]
        for person in (anna, boris):
            await person.open(group)
            await person.forget()
        return dict(chat)

    async def test_reading_takes_the_mark_though_the_position_stays(
        self, transport: Transport, boris: Person, anna: Person, group: str, marked: Json
    ) -> None:
        chat = await transport.do(boris, "mark_read", chat_id=group, seq=1)
        assert own(chat) == own(marked) | {"marked_unread": False}
        assert (chat["mine"]["last_read_seq"], chat["mine"]["version"]) == (3, marked["mine"]["version"] + 1)
        (event,) = await boris.received("chats_changed")
        assert event["mine"][0]["marked_unread"] is False
        assert await anna.received("read_changed") == [], "the position stays"
        assert await transport.do(boris, "mark_read", chat_id=group, seq=3) == chat
        assert len(await boris.received("chats_changed")) == 1

    async def test_an_own_message_takes_both_without_an_event_of_its_own(
        self, transport: Transport, boris: Person, group: str, marked: Json
    ) -> None:
        sent = await transport.send(boris, group)
        chat = await transport.do(boris, "get_chat", chat_id=group)
        assert own(chat) == after() and chat["mine"]["last_read_seq"] == sent["seq"]
        assert chat["mine"]["version"] == marked["mine"]["version"] + 1
        (event,) = await boris.received("chats_changed")
        assert event["mine"] == []

    async def test_an_own_system_message_takes_the_mark_and_leaves_the_draft(
        self, transport: Transport, boris: Person, outsider: Person, group: str, marked: Json
    ) -> None:
        await transport.do(boris, "add_members", chat_id=group, user_ids=[outsider.id])
        assert own(await transport.do(boris, "get_chat", chat_id=group)) == own(marked) | {"marked_unread": False}

    async def test_a_message_of_others_takes_neither(
        self, transport: Transport, anna: Person, boris: Person, group: str, marked: Json
    ) -> None:
        await transport.send(anna, group)
        assert own(await transport.do(boris, "get_chat", chat_id=group)) == own(marked)

    async def test_a_repeated_send_takes_nothing(
        self, transport: Transport, boris: Person, group: str, marked: Json
    ) -> None:
        fields = {"chat_id": group, "type": "text", "text": "x", "client_id": str(uuid4())}
        await transport.do(boris, "send_message", **fields)
        again = await transport.do(boris, "update_mine", chat_id=group, marked_unread=True, draft={"text": "y"})
        assert (await transport.call(boris, "send_message", **fields)).status == 200
        assert await transport.do(boris, "get_chat", chat_id=group) == again

    async def test_coming_back_starts_anew(
        self, transport: Transport, anna: Person, boris: Person, group: str, marked: Json
    ) -> None:
        await transport.do(boris, "update_mine", chat_id=group, archived=True, muted_until=LATER)
        await transport.do(boris, "clear_chat", chat_id=group, hide=True)
        await transport.do(anna, "remove_member", chat_id=group, user_id=boris.id)
        answer = await transport.call(boris, "update_mine", chat_id=group, archived=True)
        assert answer.code == "chat_not_found"
        await transport.do(anna, "add_members", chat_id=group, user_ids=[boris.id])
        assert own(await transport.do(boris, "get_chat", chat_id=group)) == after()


class TestClearing:
    async def test_it_hides_what_is_there_and_keeps_the_rest_of_the_own_part(
        self, transport: Transport, anna: Person, boris: Person, group: str
    ) -> None:
        await transport.do(boris, "pin_chat", chat_id=group)
        kept = {"title": "Mine", "muted_until": LATER, "archived": True}
        draft = {"text": "x", "reply_to": 2}
        before = await transport.do(boris, "update_mine", chat_id=group, **kept, marked_unread=True, draft=draft)
        for person in (anna, boris):
            await person.open(group)
            await person.forget()
        chat = await transport.do(boris, "clear_chat", chat_id=group)
        expected = {"visible_from_seq": 4, "last_read_seq": 3, "unread_count": 0, "marked_unread": False}
        expected |= {"draft": before["mine"]["draft"] | {"reply_to": None}, "version": before["mine"]["version"] + 1}
        assert chat == before | {"last_message": None, "mine": before["mine"] | expected}
        (event,) = await boris.received("chats_changed")
        assert event["mine"] == [{"chat_id": group, **chat["mine"]}] and event["chats"] == []
        (read,) = await anna.received("read_changed")
        assert read == {"chat_id": group, "user_id": boris.id, "last_read_seq": 3}
        assert await anna.received("chats_changed") == []
        assert await transport.do(boris, "clear_chat", chat_id=group) == chat
        assert len(await boris.received("chats_changed")) == len(await anna.received("read_changed")) == 1

    async def test_nothing_before_the_visible_start_is_read_again(
        self, transport: Transport, anna: Person, boris: Person, group: str
    ) -> None:
        await transport.do(boris, "clear_chat", chat_id=group)
        page = await transport.do(boris, "list_messages", chat_id=group)
        assert (page["items"], page["has_before"], page["has_after"]) == ([], False, False)
        assert (await transport.call(boris, "get_message", chat_id=group, seq=3)).code == "message_not_found"
        assert (await transport.call(boris, "like_message", chat_id=group, seq=3)).code == "message_not_found"
        await transport.send(anna, group, reply_to=3)
        page = await transport.do(boris, "list_messages", chat_id=group)
        assert ([row["seq"] for row in page["items"]], page["replied"]) == ([4], [])
        changes = await transport.do(boris, "list_changes", chat_id=group, since=0)
        assert ([row["seq"] for row in changes["messages"]], changes["replied"]) == ([4], [])
        assert [row["seq"] for row in await transport.history(anna, group)] == [1, 2, 3, 4], "others keep all of it"

    async def test_events_bring_nothing_before_the_visible_start(
        self, transport: Transport, anna: Person, boris: Person, clara: Person, group: str
    ) -> None:
        await transport.do(boris, "clear_chat", chat_id=group)
        for person in (boris, clara):
            await person.open(group)
            await person.forget()
        await transport.do(anna, "edit_message", chat_id=group, seq=3, text="Secret")
        (change,) = await boris.received("messages_changed")
        assert change["messages"] == change["replied"] == [] and change["version"] > change["since"]
        assert await boris.received("chats_changed") == [], "the last message is not shown"
        (entry,) = await clara.received("chats_changed")
        assert entry["chats"][0]["last_message"]["text"] == "Secret"
        await transport.send(anna, group, reply_to=3)
        assert (await boris.received("messages_changed"))[-1]["replied"] == []
        assert (await clara.received("messages_changed"))[-1]["replied"][0]["seq"] == 3
        (entry,) = await boris.received("chats_changed")
        assert entry["chats"][0]["last_message"]["seq"] == 4

    async def test_the_last_message_is_null_in_every_answer(
        self, transport: Transport, anna: Person, boris: Person, group: str
    ) -> None:
        sync = (await transport.do(boris, "list_chats"))["sync"]
        chat = await transport.do(boris, "clear_chat", chat_id=group)
        opened = await transport.do(boris, "activate_chat", chat_id=group)
        pages = [await transport.do(boris, "list_chats", **more) for more in ({}, {"ids": [group]})]
        pages.append(await transport.do(boris, "list_chats", changed_since=sync))
        assert [opened["chat"], *(page["items"][0] for page in pages)] == [chat] * 4
        assert chat["last_message"] is None and chat["message_count"] == chat["last_user_seq"] == 3
        assert (await transport.do(anna, "get_chat", chat_id=group))["last_message"]["seq"] == 3

    async def test_it_waits_for_a_message_on_its_way_and_hides_it_too(
        self, transport: Transport, anna: Person, boris: Person, group: str, database: Database
    ) -> None:
        async with database.engine.connect() as holder:
            await holder.execute(sql("SELECT FROM chat WHERE id = :chat FOR NO KEY UPDATE"), {"chat": group})
            sending = asyncio.create_task(transport.send(anna, group, "on its way"))
            await wait_for_lock_waiter(holder)
            clearing = asyncio.create_task(transport.do(boris, "clear_chat", chat_id=group))
            await wait_for_lock_waiter(holder, 2)
            await holder.commit()
        sent, chat = await sending, await clearing
        start = chat["mine"]["visible_from_seq"]
        assert start in (sent["seq"], sent["seq"] + 1)
        final = await transport.do(boris, "get_chat", chat_id=group)
        seen = [row["seq"] for row in await transport.history(boris, group)]
        assert seen == list(range(start, 5)) and final["mine"]["unread_count"] == len(seen)
        assert final["mine"]["last_read_seq"] == start - 1

    async def test_an_own_message_comes_back_to_a_retry_only(
        self, transport: Transport, boris: Person, group: str
    ) -> None:
        fields = {"chat_id": group, "type": "text", "text": "x", "client_id": str(uuid4())}
        sent = await transport.do(boris, "send_message", **fields)
        await transport.do(boris, "clear_chat", chat_id=group)
        again = await transport.call(boris, "send_message", **fields)
        assert (again.status, again.data) == (200, sent)
        assert await transport.history(boris, group) == []


class TestHiding:
    async def test_a_hidden_chat_is_out_of_sight_until_its_next_message(
        self, transport: Transport, anna: Person, boris: Person, group: str
    ) -> None:
        sync = (await transport.do(boris, "list_chats"))["sync"]
        chat = await transport.do(boris, "clear_chat", chat_id=group, hide=True)
        assert chat["mine"]["hidden"]
        for more in ({}, {"archived": False}, {"archived": True}):
            assert await listed(transport, boris, **more) == []
        for more in ({"changed_since": sync}, {"ids": [group]}):
            assert (await transport.do(boris, "list_chats", **more))["items"] == [chat]
        assert await transport.do(boris, "get_chat", chat_id=group) == chat
        assert await listed(transport, anna) == [group]
        await boris.forget()
        await transport.send(anna, group)
        shown = await transport.do(boris, "get_chat", chat_id=group)
        assert await listed(transport, boris) == [group]
        assert shown["mine"] == chat["mine"] | {"unread_count": 1, "others_read_seq": 4}, "no write shows it again"
        (event,) = await boris.received("chats_changed")
        assert event["mine"] == []

    @pytest.mark.parametrize(
        ("operation", "sent"),
        [
            ("update_mine", {"marked_unread": True}),
            ("update_mine", {"draft": {"text": "x"}}),
            ("pin_chat", {}),
            ("clear_chat", {}),
        ],
        ids=str,
    )
    async def test_marking_a_draft_and_a_pin_show_it_again(
        self, transport: Transport, boris: Person, group: str, operation: str, sent: Json
    ) -> None:
        # What was so before the hiding shows it again, too.
        if operation == "pin_chat" or "draft" in sent:
            await transport.do(boris, operation, chat_id=group, **sent)
        await transport.do(boris, "clear_chat", chat_id=group, hide=True)
        assert await listed(transport, boris) == []
        chat = await transport.do(boris, operation, chat_id=group, **sent)
        assert chat["mine"]["hidden"] is False
        assert await listed(transport, boris) == [group]

    @pytest.mark.parametrize("sent", [{"title": "x"}, {"archived": True}, {"muted_until": LATER}, {"draft": None}])
    async def test_other_changes_do_not(self, transport: Transport, boris: Person, group: str, sent: Json) -> None:
        await transport.do(boris, "clear_chat", chat_id=group, hide=True)
        assert (await transport.do(boris, "update_mine", chat_id=group, **sent))["mine"]["hidden"]
        assert await listed(transport, boris) == []


class TestCounting:
    async def unread(self, transport: Transport, person: Person) -> tuple[int, int]:
        """As the list has it, and `ready` of a new connection."""
        listed = (await transport.do(person, "list_chats"))["unread"]
        socket = await person.connect()
        assert socket.named("ready")[0]["unread"] == listed
        await socket.close()
        person.sockets.remove(socket)
        return listed["chats"], listed["messages"]

    async def test_it_counts_what_is_unread_or_marked_and_neither_quiet_nor_hidden(
        self, transport: Transport, anna: Person, boris: Person, group: str
    ) -> None:
        private = (await transport.open_private_chat(anna, boris))["id"]
        assert await self.unread(transport, boris) == (1, 3)
        await transport.send(anna, private)
        assert await self.unread(transport, boris) == (2, 4)
        for quiet, loud in (({"muted_until": LATER}, {"muted_until": None}), ({"archived": True}, {"archived": False})):
            await transport.do(boris, "update_mine", chat_id=group, **quiet)
            assert await self.unread(transport, boris) == (1, 1)
            await transport.do(boris, "update_mine", chat_id=group, **loud)
            assert await self.unread(transport, boris) == (2, 4)
        await transport.do(boris, "mark_read", chat_id=group, seq=3)
        assert await self.unread(transport, boris) == (1, 1)
        await transport.do(boris, "update_mine", chat_id=group, marked_unread=True)
        assert await self.unread(transport, boris) == (2, 1)
        await transport.do(boris, "clear_chat", chat_id=group, hide=True)
        assert await self.unread(transport, boris) == (1, 1)
        await transport.send(anna, group)
        assert await self.unread(transport, boris) == (2, 2)
        await transport.do(anna, "remove_member", chat_id=group, user_id=boris.id)
        assert await self.unread(transport, boris) == (1, 1)

    async def test_system_messages_do_not_count(
        self, transport: Transport, anna: Person, boris: Person, outsider: Person, group: str
    ) -> None:
        await transport.do(boris, "mark_read", chat_id=group, seq=3)
        await transport.do(anna, "add_members", chat_id=group, user_ids=[outsider.id])
        assert await self.unread(transport, boris) == (0, 0)
        await transport.send(anna, group)
        assert await self.unread(transport, boris) == (1, 2)

    async def test_a_mute_that_is_over_counts(
        self, transport: Transport, boris: Person, group: str, database: Database
    ) -> None:
        await transport.do(boris, "update_mine", chat_id=group, muted_until=LATER)
        async with database.engine.begin() as connection:
            over = "UPDATE membership SET muted_until = now() - interval '1 second' WHERE chat_id = :chat"
            await connection.execute(sql(over), {"chat": group})
        assert await self.unread(transport, boris) == (1, 3)

    async def test_it_is_on_the_first_page(self, transport: Transport, anna: Person, boris: Person, group: str) -> None:
        await transport.open_private_chat(anna, boris)
        first = await transport.do(boris, "list_chats", limit=1)
        second = await transport.do(boris, "list_chats", limit=1, cursor=first["next_cursor"])
        assert first["unread"] == {"chats": 1, "messages": 3} and second["unread"] is None


class TestArchive:
    async def test_a_list_has_all_chats_or_only_those_in_the_archive_or_the_others(
        self, transport: Transport, anna: Person, boris: Person, group: str
    ) -> None:
        others = [(await transport.create_group(anna, boris, title=f"{n}"))["id"] for n in range(3)]
        for chat_id in (group, others[1]):
            await transport.do(boris, "update_mine", chat_id=chat_id, archived=True)
        await transport.do(boris, "pin_chat", chat_id=group)
        assert await listed(transport, boris) == [group, *others[::-1]]
        assert await listed(transport, boris, archived=True) == [group, others[1]]
        assert await listed(transport, boris, archived=False) == [others[2], others[0]]
        first = await transport.do(boris, "list_chats", archived=True, limit=1)
        assert await listed(transport, boris, archived=True, limit=1, cursor=first["next_cursor"]) == [others[1]]

    async def test_not_with_ids_or_changed_since(self, transport: Transport, boris: Person, group: str) -> None:
        sync = (await transport.do(boris, "list_chats"))["sync"]
        for more in ({"ids": [group]}, {"changed_since": sync}):
            answer = await transport.call(boris, "list_chats", archived=False, **more)
            assert (answer.status, answer.code) == (422, "invalid_input")
