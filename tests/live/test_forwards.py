"""Forwards: messages with the content of others and the name of their first author."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from chat_app.crud.messages import edit_message
from chat_app.models.messages import MessageUpdate
from chat_app.models.sessions import Actor
from tests.clients import Answer, Person, Transport, until
from tests.live.test_extra import problem_of
from tests.live.test_messages import CONTACT, LOCATION, upload
from tests.operations import wait_for_lock_waiter
from tests.service import Service
from tests.stores import keys_in

# What a forward has of its own.
OF_ITS_OWN = ("chat_id", "seq", "version", "client_id", "sender_id", "sent_at", "reply_to", "forwarded", "attachment")


async def forward(
    transport: Transport, person: Person, source: dict[str, Any], chat_id: str, **fields: Any
) -> dict[str, Any]:
    """Forward a message that succeeds."""
    answer = await call_forward(transport, person, source, chat_id, **fields)
    assert answer.ok, answer
    message: dict[str, Any] = answer.data
    return message


async def call_forward(
    transport: Transport, person: Person, source: dict[str, Any], chat_id: str, **fields: Any
) -> Answer:
    named = {"from_chat_id": source["chat_id"], "from_seq": source["seq"], "client_id": str(uuid4())}
    return await transport.call(person, "send_message", chat_id=chat_id, type="forward", **named | fields)


def taken_over(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name not in OF_ITS_OWN}


class TestContent:
    async def test_a_forward_has_the_content_and_the_first_author(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        other = await transport.open_private_chat(boris, clara)
        await transport.send(boris, other["id"])
        for content in ({"type": "text", "text": "look"}, LOCATION | {"text": "here"}, CONTACT):
            client_id = str(uuid4())
            sent = await transport.do(anna, "send_message", chat_id=chat["id"], client_id=client_id, **content)
            passed_on = await forward(transport, boris, sent, other["id"], reply_to=1)
            assert taken_over(passed_on) == taken_over(sent)
            assert (passed_on["sender_id"], passed_on["reply_to"]) == (boris.id, 1)
            assert passed_on["forwarded"] == {"author_id": anna.id, "sent_at": sent["sent_at"]}
            assert passed_on["sent_at"] > sent["sent_at"]
            assert await transport.do(clara, "get_message", chat_id=other["id"], seq=passed_on["seq"]) == passed_on
        assert (await transport.do(clara, "get_chat", chat_id=other["id"]))["last_message"]["seq"] == 4

    async def test_the_first_author_stays_through_any_number_of_forwards(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        sent = await transport.send(anna, chat["id"])
        second = await forward(transport, boris, sent, chat["id"])
        await transport.do(anna, "edit_message", chat_id=chat["id"], seq=sent["seq"], text="later")
        third = await forward(transport, clara, second, chat["id"])
        assert third["forwarded"] == second["forwarded"] == {"author_id": anna.id, "sent_at": sent["sent_at"]}
        assert third["text"] == "hello"

    async def test_the_original_is_read_when_its_chat_is_locked(
        self, transport: Transport, service: Service, anna: Person, boris: Person
    ) -> None:
        source = await transport.create_group(anna, boris)
        sent = await transport.send(anna, source["id"])
        chat = await transport.open_private_chat(boris, anna)
        async with service.database.engine.connect() as connection:
            async with service.database.transaction() as db:
                actor = Actor(UUID(anna.id), anna.session_id)
                await edit_message(db, actor, UUID(source["id"]), sent["seq"], MessageUpdate(text="better"))
                passing_on = asyncio.create_task(forward(transport, boris, sent, chat["id"]))
                await wait_for_lock_waiter(connection)
            assert (await passing_on)["text"] == "better"

    async def test_likes_reactions_pins_and_edits_stay_with_the_original(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        sent = await transport.send(anna, chat["id"])
        where = {"chat_id": chat["id"], "seq": sent["seq"]}
        for operation in ("like_message", "pin_message"):
            await transport.do(anna, operation, **where)
        await transport.do(anna, "react", **where, emoji="👍")
        await transport.do(anna, "edit_message", **where, text="better")
        passed_on = await forward(transport, anna, sent, chat["id"])
        assert taken_over(passed_on) == taken_over(sent) | {"text": "better"}

    async def test_extra_is_taken_only_as_given_and_a_custom_message_needs_it(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        for number, kind in enumerate(("text", "custom")):
            fields = {"type": kind, "text": "look", "extra": {"color": "teal"}, "client_id": str(uuid4())}
            sent = await transport.do(anna, "send_message", chat_id=chat["id"], **fields)
            given = await forward(transport, boris, sent, chat["id"], extra={"number": number})
            assert (given["type"], given["text"], given["extra"]) == (kind, "look", {"number": number})
            if kind == "text":
                assert (await forward(transport, boris, sent, chat["id"]))["extra"] is None
        named = {"type": "forward", "from_chat_id": chat["id"], "from_seq": sent["seq"]}
        await boris.connect()
        error = await problem_of(transport, boris, chat["id"], named)
        assert (error["status"], error["pointer"], error["code"]) == (422, "/extra", "missing")

    async def test_the_author_is_among_the_users_wherever_the_message_is(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        source = await transport.open_private_chat(anna, boris)
        sent = await transport.send(anna, source["id"])
        chat = await transport.open_private_chat(boris, clara)
        await clara.open(chat["id"])
        await clara.forget()
        passed_on = await forward(transport, boris, sent, chat["id"])
        await transport.send(clara, chat["id"], "who?", reply_to=passed_on["seq"])
        await transport.do(boris, "pin_message", chat_id=chat["id"], seq=passed_on["seq"])
        events = await clara.received("messages_changed")
        assert len(events) == 3
        for event in events:
            assert anna.id in [user["id"] for user in event["users"]]
        page = await transport.do(clara, "list_messages", chat_id=chat["id"])
        changes = await transport.do(clara, "list_changes", chat_id=chat["id"], since=0)
        pinned = await transport.do(clara, "list_pinned_messages", chat_id=chat["id"])
        for answer in (page, changes, pinned):
            assert anna.id in [user["id"] for user in answer["users"]]

    async def test_a_tombstone_has_no_author(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        passed_on = await forward(transport, boris, await transport.send(anna, chat["id"]), chat["id"])
        await boris.open(chat["id"])
        await transport.do(boris, "delete_message", chat_id=chat["id"], seq=passed_on["seq"])
        tombstone = await transport.do(anna, "get_message", chat_id=chat["id"], seq=passed_on["seq"])
        assert (tombstone["forwarded"], tombstone["text"]) == (None, None)
        (event,) = await boris.received("messages_changed")
        assert event["messages"] == [tombstone] and event["users"] == []


class TestPermissions:
    async def test_what_one_does_not_see_is_not_forwarded(
        self, transport: Transport, anna: Person, boris: Person, clara: Person, outsider: Person
    ) -> None:
        source = await transport.create_group(anna, boris)
        sent = await transport.send(anna, source["id"])
        await transport.do(anna, "add_members", chat_id=source["id"], user_ids=[clara.id])
        for person in (clara, outsider):
            own = await transport.create_group(person, anna)
            nowhere = {"chat_id": str(uuid4()), "seq": 1}
            for missing in (sent, nowhere, sent | {"seq": 99}):
                answer = await call_forward(transport, person, missing, own["id"])
                assert (answer.status, answer.code) == (404, "message_not_found")
            assert (await transport.do(person, "get_chat", chat_id=own["id"]))["version"] == own["version"]
        await transport.do(boris, "clear_chat", chat_id=source["id"])
        own = await transport.create_group(boris, anna)
        assert (await call_forward(transport, boris, sent, own["id"])).code == "message_not_found"
        await transport.do(anna, "remove_member", chat_id=source["id"], user_id=boris.id)
        own = await transport.create_group(boris, anna)
        assert (await call_forward(transport, boris, sent, own["id"])).code == "message_not_found"
        await transport.do(anna, "delete_chat", chat_id=source["id"])
        assert (await call_forward(transport, anna, sent, own["id"])).code == "message_not_found"

    async def test_one_forwards_only_to_own_chats_and_quotes_what_one_sees(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        source = await transport.open_private_chat(anna, boris)
        sent = await transport.send(anna, source["id"])
        other = await transport.create_group(boris, clara)
        assert (await call_forward(transport, anna, sent, other["id"])).code == "chat_not_found"
        assert (await call_forward(transport, boris, sent, other["id"], reply_to=9)).code == "message_not_found"

    async def test_system_messages_and_tombstones_are_not_forwarded(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        sent = await transport.send(anna, chat["id"])
        await transport.do(anna, "delete_message", chat_id=chat["id"], seq=sent["seq"])
        for seq, refusal in ((1, (422, "invalid_input")), (2, (409, "message_deleted"))):
            answer = await call_forward(transport, anna, sent | {"seq": seq}, chat["id"])
            assert (answer.status, answer.code) == refusal

    async def test_nobody_edits_a_forward(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.create_group(anna, boris)
        passed_on = await forward(transport, boris, await transport.send(anna, chat["id"]), chat["id"])
        for person in (anna, boris):
            where = {"chat_id": chat["id"], "seq": passed_on["seq"]}
            answer = await transport.call(person, "edit_message", **where, text="mine")
            assert (answer.status, answer.code) == (403, "not_author")

    @pytest.mark.parametrize("wrong", [{"text": "x"}, {"from_seq": 0}, {"from_seq": "1"}, {"from_chat_id": "x"}])
    async def test_other_fields_are_refused(
        self, transport: Transport, anna: Person, boris: Person, wrong: dict[str, Any]
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        sent = await transport.send(anna, chat["id"])
        answer = await call_forward(transport, anna, sent, chat["id"], **wrong)
        assert (answer.status, answer.code) == (422, "invalid_input")


class TestRetries:
    async def test_a_retry_answers_the_message_though_the_original_is_gone(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        source = await transport.create_group(anna, boris)
        sent = await transport.send(anna, source["id"])
        chat = await transport.open_private_chat(boris, anna)
        client_id = str(uuid4())
        first = await forward(transport, boris, sent, chat["id"], client_id=client_id)
        await transport.do(anna, "delete_message", chat_id=source["id"], seq=sent["seq"])
        again = await call_forward(transport, boris, sent, chat["id"], client_id=client_id)
        assert (again.status, again.data) == (200, first)
        await transport.do(anna, "delete_chat", chat_id=source["id"])
        again = await call_forward(transport, boris, sent, chat["id"], client_id=client_id)
        assert (again.status, again.data) == (200, first)

    async def test_other_fields_under_the_same_client_id_are_refused(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        sent, other = [await transport.send(anna, chat["id"]) for _ in range(2)]
        client_id = str(uuid4())
        await forward(transport, boris, sent, chat["id"], client_id=client_id)
        for source, reply_to in ((other, None), (sent, 1)):
            fields = {"client_id": client_id, "reply_to": reply_to}
            answer = await call_forward(transport, boris, source, chat["id"], **fields)
            assert (answer.status, answer.code) == (409, "client_id_reused")

    async def test_forwards_of_each_other_at_once_do_not_lock_each_other_out(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chats = [await transport.create_group(anna, boris) for _ in range(2)]
        sent = [await transport.send(anna, chat["id"]) for chat in chats]
        await boris.connect()
        calls = [
            call_forward(transport, person, sent[number % 2], chats[1 - number % 2]["id"])
            for number in range(10)
            for person in (anna, boris)
        ]
        assert {answer.code for answer in await asyncio.gather(*calls)} == {None}
        for chat in chats:
            assert [message["seq"] for message in await transport.history(boris, chat["id"])] == list(range(1, 13))


class TestFiles:
    async def test_a_forward_has_an_attachment_of_its_own_with_the_same_file(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        source = await transport.open_private_chat(anna, boris)
        uploaded = await upload(anna, "image/png", "red.png")
        fields = {"type": "image", "attachment_id": uploaded["id"], "text": "red", "client_id": str(uuid4())}
        sent = await transport.do(anna, "send_message", chat_id=source["id"], **fields)
        chat = await transport.open_private_chat(boris, clara)
        passed_on = await forward(transport, boris, sent, chat["id"])
        file = passed_on["attachment"]
        same = ("name", "content_type", "size", "width", "height", "duration")
        assert {name: file[name] for name in same} == {name: sent["attachment"][name] for name in same}
        assert file["id"] != uploaded["id"] and passed_on["text"] == "red"
        for attachment_id, person, status in (
            *((file["id"], boris, 200), (file["id"], clara, 200), (file["id"], anna, 404)),
            *((uploaded["id"], boris, 200), (uploaded["id"], clara, 404)),
        ):
            assert (await person.http.get(f"/api/v1/attachments/{attachment_id}")).status_code == status
        for url in (file["url"], file["preview_url"]):
            assert (await clara.http.get(url)).status_code == 200
        answer = await transport.call(
            boris, "send_message", chat_id=chat["id"], type="image", attachment_id=file["id"], client_id=str(uuid4())
        )
        assert (answer.status, answer.code) == (409, "attachment_used")

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
    async def test_the_file_goes_with_the_last_message_that_has_it(
        self, transport: Transport, service: Service, anna: Person, boris: Person, order: tuple[int, ...]
    ) -> None:
        chat, before = await transport.create_group(anna, boris), keys_in(service.node.storage)
        messages = await three_with_a_file(transport, anna, chat["id"])
        file = keys_in(service.node.storage) - before
        assert len(file) == 1
        for number in order:
            message = messages[number]
            opened = await boris.http.get(message["attachment"]["url"])
            assert (opened.status_code, opened.content) == (200, b"anything")
            await transport.do(anna, "delete_message", chat_id=chat["id"], seq=message["seq"])
            assert (await boris.http.get(message["attachment"]["url"])).status_code == 404
        await until_gone(service, file)

    async def test_of_copies_that_are_deleted_at_once_one_takes_the_file_along(
        self, transport: Transport, service: Service, anna: Person, boris: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        others = [await transport.create_group(anna, boris) for _ in range(3)]
        for _ in range(3):
            before = keys_in(service.node.storage)
            messages = await three_with_a_file(transport, anna, chat["id"])
            file = keys_in(service.node.storage) - before
            copies = [await forward(transport, anna, messages[0], other["id"]) for other in others]
            gone = [{"chat_id": copy["chat_id"], "seq": copy["seq"]} for copy in (*messages, *copies)]
            await asyncio.gather(*(transport.do(anna, "delete_message", **where) for where in gone))
            await until_gone(service, file)


async def until_gone(service: Service, keys: set[str]) -> None:
    """Wait until these files are removed."""
    await until(lambda: not keys & keys_in(service.node.storage))


async def three_with_a_file(transport: Transport, person: Person, chat_id: str) -> list[dict[str, Any]]:
    """A message with a file, its forward, and the forward of that."""
    uploaded = await upload(person)
    fields = {"type": "file", "attachment_id": uploaded["id"], "client_id": str(uuid4())}
    messages = [await transport.do(person, "send_message", chat_id=chat_id, **fields)]
    for _ in range(2):
        messages.append(await forward(transport, person, messages[-1], chat_id))
    return messages
