"""Messages: types, sending once, quoting, editing, deleting."""

import asyncio
import io
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import pytest
from PIL import Image
from sqlalchemy import text as sql

from chat_app.database import Database
from tests.clients import Person, SocketTransport, Transport
from tests.faults import no_commits
from tests.service import Service

MESSAGE = {
    "chat_id",
    "seq",
    "version",
    "client_id",
    "type",
    "text",
    "location",
    "contact",
    "system",
    "attachment",
    "reply_to",
    "sender_id",
    "like_count",
    "liked",
    "sent_at",
    "edited_at",
    "deleted_at",
    "extra",
    "pinned_at",
    "reactions",
    "reacted",
    "forwarded",
}
OWN = ("liked", "reacted")
PAYLOADS = ("location", "contact", "system")
LOCATION = {"type": "location", "latitude": 55.75, "longitude": 37.6}
CONTACT = {"type": "contact", "name": "Doctor", "phone": "8 (495) 123-45-67"}
SOME_ID = "01890000-0000-7000-8000-000000000000"
NOT_ALLOWED: list[dict[str, Any]] = [
    {"text": "no type"},
    {"type": "poll", "text": "x"},
    {"type": None, "text": "x"},
    {"type": "system", "text": "x"},
    {"type": "system", "system": {"event": "group_created", "user_ids": []}},
    {"type": "location", "location": {"latitude": 1, "longitude": 1}},
    {"type": "text"},
    {"type": "text", "text": None},
    {"type": "text", "text": ""},
    {"type": "text", "text": 7},
    {"type": "text", "text": "x" * 8001},
    {"type": "text", "text": "nul\x00"},
    {"type": "text", "text": "x", "attachment_id": SOME_ID},
    {"type": "text", "text": "x", "color": "red"},
    {"type": "text", "text": "x", "sender_id": SOME_ID},
    {"type": "text", "text": "x", "client_id": None},
    {"type": "text", "text": "x", "client_id": "1"},
    {"type": "text", "text": "x", "reply_to": 0},
    {"type": "text", "text": "x", "reply_to": -1},
    {"type": "text", "text": "x", "reply_to": 1.5},
    {"type": "text", "text": "x", "reply_to": 2**63},
    {"type": "text", "text": "x", "reply_to": 2**64},
    {"type": "image"},
    {"type": "image", "attachment_id": None},
    {"type": "file", "attachment_id": "x"},
    {"type": "voice", "attachment_id": SOME_ID, "text": ""},
    {"type": "video", "attachment_id": SOME_ID, "latitude": 1},
    {"type": "location", "latitude": 1},
    LOCATION | {"latitude": 90.001},
    LOCATION | {"longitude": -180.001},
    LOCATION | {"latitude": "north"},
    LOCATION | {"text": ""},
    {"type": "contact", "name": "x"},
    {"type": "contact", "phone": "1"},
    CONTACT | {"name": ""},
    CONTACT | {"name": "a\nb"},
    CONTACT | {"phone": ""},
    CONTACT | {"phone": "1" * 41},
    CONTACT | {"text": "x"},
]


def png() -> bytes:
    """A small picture."""
    file = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(file, "PNG")
    return file.getvalue()


def payloads_of(message: dict[str, Any]) -> dict[str, Any]:
    """The fields of which at most one, that of the type, has a value."""
    return {name: message[name] for name in PAYLOADS}


async def upload(person: Person, content_type: str = "text/plain", name: str = "notes.txt") -> Any:
    """Upload a file without sending it."""
    data = png() if content_type == "image/png" else b"anything"
    answer = await person.http.post("/api/v1/attachments", files={"file": (name, data, content_type)})
    assert answer.status_code == 201, answer.text
    return answer.json()


class TestSending:
    async def test_a_message_takes_the_next_seq_and_version(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        client_id = str(uuid4())
        answer = await transport.call(
            anna, "send_message", chat_id=chat["id"], type="text", text="hello", client_id=client_id
        )
        assert answer.status == 201
        message = answer.data
        assert set(message) == MESSAGE
        assert (message["chat_id"], message["seq"], message["client_id"]) == (chat["id"], 1, client_id)
        assert message["version"] == chat["version"] + 1
        assert (message["type"], message["text"], message["sender_id"]) == ("text", "hello", anna.id)
        assert (message["like_count"], message["liked"]) == (0, False)
        absent = (*PAYLOADS, "attachment", "reply_to", "edited_at", "deleted_at", "extra", "pinned_at", "forwarded")
        assert (message["reactions"], message["reacted"]) == ([], [])
        assert {message[field] for field in absent} == {None}
        assert await transport.do(boris, "get_message", chat_id=chat["id"], seq=1) == message
        assert await transport.history(boris, chat["id"]) == [message]

    async def test_the_chat_list_shows_and_counts_a_message(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        message = await transport.send(anna, chat["id"], "long " * 100)
        entry = await transport.do(boris, "get_chat", chat_id=chat["id"])
        assert entry["message_count"] == 1 and entry["updated_at"] == message["sent_at"]
        preview = {"seq", "type", "sender_id", "sent_at", "deleted_at", "system"}
        assert set(entry["last_message"]) == preview | {"text"}
        assert {key: entry["last_message"][key] for key in preview} == {key: message[key] for key in preview}
        assert entry["last_message"]["text"] == message["text"][:200]
        assert (await transport.do(boris, "list_chats"))["items"] == [entry]

    async def test_members_get_the_list_entry_and_open_windows_the_message(
        self, transport: Transport, anna: Person, boris: Person, clara: Person, outsider: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        await boris.open(chat["id"])
        for person in (anna, boris, clara, outsider):
            await person.forget()
        message = await transport.send(anna, chat["id"])
        for person in (anna, boris, clara):
            (event,) = await person.received("chats_changed")
            entry = await transport.do(person, "get_chat", chat_id=chat["id"])
            assert event["chats"] == [{key: value for key, value in entry.items() if key != "mine"}]
            assert event["mine"] == event["removed"] == []
            assert event["users"] == [{"id": anna.id, "name": "Anna", "avatar": None}]
        (event,) = await boris.received("messages_changed")
        shared = {key: value for key, value in message.items() if key not in OWN}
        assert event["messages"] == [shared]
        assert (event["chat_id"], event["message_count"]) == (chat["id"], 2)
        assert (event["since"], event["version"]) == (chat["version"], message["version"])
        assert event["members"] == event["users"] == event["replied"] == []
        for person in (anna, clara, outsider):
            assert await person.received("messages_changed") == []
        assert await outsider.received("chats_changed") == []

    async def test_simultaneous_sends_make_one_sequence(
        self, transport: Transport, other_transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        await clara.open(chat["id"])
        senders = (anna, boris, clara)
        for person in senders:
            await person.forget()
        transports = (transport, other_transport)
        sent = await asyncio.gather(
            *(transports[n % 2].send(senders[n % 3], chat["id"], f"{n}") for n in range(30)),
        )
        assert sorted(message["seq"] for message in sent) == list(range(2, 32))
        histories = [await transport.history(person, chat["id"]) for person in senders]
        assert histories[0] == histories[1] == histories[2]
        assert [message["seq"] for message in histories[0]] == list(range(1, 32))
        # One event may carry several messages of one commit. Each event begins where the one before ended.
        received = await clara.received("messages_changed")
        assert [event["since"] for event in received] == [
            chat["version"],
            *(event["version"] for event in received[:-1]),
        ]
        assert received[-1]["version"] == chat["version"] + 30
        assert [message["seq"] for event in received for message in event["messages"]] == list(range(2, 32))

    async def test_an_outsider_sends_nothing(
        self, transport: Transport, anna: Person, boris: Person, outsider: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        for chat_id in (chat["id"], str(uuid4())):
            answer = await transport.call(
                outsider, "send_message", chat_id=chat_id, type="text", text="x", client_id=str(uuid4())
            )
            assert (answer.status, answer.code) == (404, "chat_not_found")
        assert (await transport.do(anna, "get_chat", chat_id=chat["id"]))["version"] == chat["version"]

    async def test_a_send_whose_commit_failed_is_neither_acked_nor_delivered(
        self, transport: Transport, service: Service, database: Database, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await boris.open(chat["id"])
        for person in (anna, boris):
            await person.forget()
        fields = {"chat_id": chat["id"], "type": "text", "text": "lost", "client_id": str(uuid4())}
        with no_commits(service.database, database, of_sends_only=True):
            answer = await transport.call(anna, "send_message", **fields)
        assert (answer.status, answer.code) == (503, "unavailable")
        assert await boris.received("messages_changed") == await boris.received("chats_changed") == []
        assert await boris.received("resync_required")
        assert await transport.history(boris, chat["id"]) == []
        assert (await transport.call(anna, "send_message", **fields)).status == 201


class TestTypes:
    @pytest.mark.parametrize(
        ("fields", "payload"),
        [
            ({"type": "text", "text": "hello"}, None),
            ({"type": "text", "text": "𝄞" * 8000}, None),
            (LOCATION, {"latitude": 55.75, "longitude": 37.6}),
            (LOCATION | {"latitude": -90, "longitude": 180, "text": "here"}, {"latitude": -90, "longitude": 180}),
            (CONTACT, {"name": "Doctor", "phone": "8 (495) 123-45-67"}),
        ],
        ids=["text", "longest text", "location", "location with a caption", "contact"],
    )
    async def test_every_type_is_returned_as_sent(
        self, transport: Transport, anna: Person, boris: Person, fields: dict[str, Any], payload: dict[str, Any] | None
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        sent = await transport.do(anna, "send_message", chat_id=chat["id"], client_id=str(uuid4()), **fields)
        assert (sent["type"], sent["text"]) == (fields["type"], fields.get("text"))
        assert payloads_of(sent) == dict.fromkeys(PAYLOADS) | ({fields["type"]: payload} if payload else {})
        assert await transport.history(boris, chat["id"]) == [sent]
        assert (await transport.do(boris, "get_chat", chat_id=chat["id"]))["last_message"]["system"] is None

    async def test_the_list_shows_the_content_of_system_messages_only(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        (message,) = await transport.history(boris, chat["id"])
        assert payloads_of(message) == dict.fromkeys(PAYLOADS) | {"system": chat["last_message"]["system"]}
        assert message["system"]["event"] == "group_created"
        await boris.forget()
        for fields in (LOCATION, CONTACT):
            await transport.do(anna, "send_message", chat_id=chat["id"], client_id=str(uuid4()), **fields)
            listed = (await transport.do(boris, "get_chat", chat_id=chat["id"]))["last_message"]
            assert (listed["type"], listed["system"]) == (fields["type"], None)
            assert (await boris.received("chats_changed"))[-1]["chats"][0]["last_message"] == listed

    @pytest.mark.parametrize(
        ("kind", "content_type"),
        [
            ("image", "image/png"),
            ("video", "video/mp4"),
            ("audio", "audio/mpeg"),
            ("voice", "audio/ogg"),
            ("file", "application/pdf"),
            ("file", "image/png"),
        ],
    )
    async def test_files_are_sent_by_id_with_a_caption(
        self, transport: Transport, anna: Person, boris: Person, kind: str, content_type: str
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        file = await upload(anna, content_type, "a file")
        fields = {"type": kind, "attachment_id": file["id"], "text": "look", "client_id": str(uuid4())}
        sent = await transport.do(anna, "send_message", chat_id=chat["id"], **fields)
        assert (sent["type"], sent["text"], payloads_of(sent)) == (kind, "look", dict.fromkeys(PAYLOADS))
        plain = {key for key in file if not key.endswith("url")}
        assert {key: sent["attachment"][key] for key in plain} == {key: file[key] for key in plain}
        assert set(sent["attachment"]) == set(file)
        (seen,) = await transport.history(boris, chat["id"])
        assert seen["attachment"]["id"] == file["id"]
        assert (await boris.http.get(f"/api/v1/attachments/{file['id']}")).status_code == 200

    async def test_fields_that_a_type_does_not_allow_are_refused(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        for fields in NOT_ALLOWED:
            argument = {"chat_id": chat["id"], "client_id": str(uuid4())} | fields
            answer = await transport.call(anna, "send_message", **argument)
            assert (answer.status, answer.code) == (422, "invalid_input"), fields
        assert (await transport.do(anna, "get_chat", chat_id=chat["id"]))["message_count"] == 0

    async def test_the_pointer_names_the_wrong_field(self, anna: Person, boris: Person) -> None:
        chat = (await SocketTransport().open_private_chat(anna, boris))["id"]
        fields = {"type": "location", "latitude": 91, "longitude": 0, "client_id": str(uuid4()), "color": "red"}
        answer = await anna.http.post(f"/api/v1/chats/{chat}/messages", json=fields)
        assert {error["pointer"] for error in answer.json()["errors"]} == {"/latitude", "/color"}
        ack = await anna.socket.client.call("send_message", {"chat_id": chat, **fields})
        assert {error["pointer"] for error in ack["error"]["errors"]} == {"/latitude", "/color"}


class TestAttachments:
    async def test_foreign_and_unknown_files_cannot_be_sent(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        theirs = await upload(boris)
        for attachment_id in (theirs["id"], str(uuid4())):
            fields = {"type": "file", "attachment_id": attachment_id, "client_id": str(uuid4())}
            answer = await transport.call(anna, "send_message", chat_id=chat["id"], **fields)
            assert (answer.status, answer.code) == (404, "attachment_not_found")

    async def test_a_file_belongs_to_one_message(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        other = await transport.create_group(anna, boris)
        file = await upload(anna)
        fields = {"type": "file", "attachment_id": file["id"]}
        await transport.do(anna, "send_message", chat_id=chat["id"], client_id=str(uuid4()), **fields)
        for chat_id in (chat["id"], other["id"]):
            answer = await transport.call(anna, "send_message", chat_id=chat_id, client_id=str(uuid4()), **fields)
            assert (answer.status, answer.code) == (409, "attachment_used")

    async def test_one_of_simultaneous_messages_gets_the_file(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        file = await upload(anna)
        sockets = [await anna.connect() for _ in range(3)]
        fields = {"chat_id": chat["id"], "type": "file", "attachment_id": file["id"]}
        answers = await asyncio.gather(
            *(socket.call("send_message", fields | {"client_id": str(uuid4())}) for socket in sockets),
            *(transport.call(anna, "send_message", **fields, client_id=str(uuid4())) for _ in range(3)),
        )
        assert sorted(answer.code or "sent" for answer in answers) == ["attachment_used"] * 5 + ["sent"]
        assert len(await transport.history(boris, chat["id"])) == 1

    @pytest.mark.parametrize(
        ("kind", "content_type"),
        [("image", "video/mp4"), ("video", "audio/mpeg"), ("audio", "image/png"), ("voice", "text/plain")],
    )
    async def test_a_file_is_sent_only_as_its_own_type(
        self, transport: Transport, anna: Person, boris: Person, kind: str, content_type: str
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        file = await upload(anna, content_type)
        fields = {"attachment_id": file["id"], "client_id": str(uuid4())}
        answer = await transport.call(anna, "send_message", chat_id=chat["id"], type=kind, **fields)
        assert (answer.status, answer.code) == (422, "invalid_input")
        # A refused file can still be sent, with the same client_id.
        assert (await transport.call(anna, "send_message", chat_id=chat["id"], type="file", **fields)).status == 201

    async def test_a_retry_keeps_the_file(
        self, transport: Transport, other_transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        file = await upload(anna)
        fields = {"chat_id": chat["id"], "type": "file", "attachment_id": file["id"], "client_id": str(uuid4())}
        assert (await transport.call(anna, "send_message", **fields)).status == 201
        answer = await other_transport.call(anna, "send_message", **fields)
        assert (answer.status, answer.data["attachment"]["id"]) == (200, file["id"])

    async def test_only_users_who_see_the_message_see_the_file(
        self, transport: Transport, anna: Person, boris: Person, clara: Person, outsider: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        file = await upload(anna)
        path = f"/api/v1/attachments/{file['id']}"
        assert [(await person.http.get(path)).status_code for person in (anna, boris)] == [200, 404]
        fields = {"type": "file", "attachment_id": file["id"], "client_id": str(uuid4())}
        await transport.do(anna, "send_message", chat_id=chat["id"], **fields)
        await transport.do(boris, "add_members", chat_id=chat["id"], user_ids=[outsider.id])
        await transport.do(clara, "leave_chat", chat_id=chat["id"])
        people = (anna, boris, clara, outsider)
        assert [(await person.http.get(path)).status_code for person in people] == [200, 200, 404, 404]


class TestResending:
    async def test_a_retry_is_recognized_by_a_hash_that_no_version_may_change(
        self, transport: Transport, database: Database, anna: Person, boris: Person
    ) -> None:
        """During a deploy the message may have been written by another version than the one that gets the retry."""
        chat = await transport.open_private_chat(anna, boris)
        contents: list[tuple[dict[str, Any], bytes]] = [
            ({"type": "text", "text": "once"}, b'{"text":"once","type":"text"}'),
            (LOCATION | {"latitude": 55}, b'{"latitude":55.0,"longitude":37.6,"type":"location"}'),
            (LOCATION | {"text": "x"}, b'{"latitude":55.75,"longitude":37.6,"text":"x","type":"location"}'),
            (CONTACT | {"reply_to": 1}, b'{"name":"Doctor","phone":"8 (495) 123-45-67","reply_to":1,"type":"contact"}'),
            ({"type": "custom", "extra": {"b": 1.0, "a": 2}}, rb'{"extra":"{\"a\":2,\"b\":1}","type":"custom"}'),
        ]
        for fields, _ in contents:
            await transport.do(anna, "send_message", chat_id=chat["id"], client_id=str(uuid4()), **fields)
        async with database.engine.connect() as connection:
            statement = sql("SELECT content_hash FROM message WHERE chat_id = :chat ORDER BY seq")
            hashes = (await connection.execute(statement, {"chat": UUID(chat["id"])})).scalars().all()
        assert hashes == [sha256(content).digest() for _, content in contents]

    async def test_resending_returns_the_same_message(
        self, transport: Transport, other_transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        fields = {"chat_id": chat["id"], "type": "text", "text": "once", "client_id": str(uuid4())}
        first = await transport.call(anna, "send_message", **fields)
        assert first.status == 201
        await boris.forget()
        for either in (transport, other_transport):
            again = await either.call(anna, "send_message", **fields)
            assert (again.status, again.data) == (200, first.data)
        assert await boris.received("chats_changed") == []
        assert (await transport.do(boris, "get_chat", chat_id=chat["id"]))["version"] == first.data["version"]

    async def test_over_http_the_service_makes_a_missing_client_id(self, anna: Person, boris: Person) -> None:
        chat_id = (await SocketTransport().open_private_chat(anna, boris))["id"]
        assert (await anna.http.put("/api/v1/chats/active", json={"chat_id": chat_id})).status_code == 200
        for kind in ({"type": "text", "text": "again"}, LOCATION, CONTACT):
            made = []
            for path in (f"{chat_id}/messages", f"{chat_id}/messages", "active/messages"):
                response = await anna.http.post(f"/api/v1/chats/{path}", json=kind)
                assert response.status_code == 201, response.text
                made.append(response.json())
            assert len({message["client_id"] for message in made}) == len({message["seq"] for message in made}) == 3
            given = kind | {"client_id": made[0]["client_id"]}
            again = await anna.http.post(f"/api/v1/chats/{chat_id}/messages", json=given)
            assert (again.status_code, again.json()) == (200, made[0])

    async def test_over_socket_io_a_client_id_is_required(self, anna: Person, boris: Person) -> None:
        chat_id = (await SocketTransport().open_private_chat(anna, boris))["id"]
        for kind in ({"type": "text", "text": "again"}, LOCATION, CONTACT):
            ack = await anna.socket.client.call("send_message", {"chat_id": chat_id, **kind})
            (error,) = ack["error"]["errors"]
            assert (error["pointer"], error["code"]) == ("/client_id", "missing")

    async def test_simultaneous_resends_over_both_transports_make_one_message(
        self, transport: Transport, other_transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        fields = {"chat_id": chat["id"], "type": "text", "text": "once", "client_id": str(uuid4())}
        answers = await asyncio.gather(
            *(either.call_at_once(anna, 10, "send_message", **fields) for either in (transport, other_transport))
        )
        answered = [answer for several in answers for answer in several]
        assert sorted(answer.status for answer in answered) == [200] * 19 + [201]
        assert {answer.data["seq"] for answer in answered} == {1}
        assert len(await transport.history(boris, chat["id"])) == 1

    async def test_a_retry_returns_the_message_as_it_is_now(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        fields = {"chat_id": chat["id"], "type": "text", "text": "first", "client_id": str(uuid4())}
        await transport.do(anna, "send_message", **fields)
        await transport.do(anna, "edit_message", chat_id=chat["id"], seq=1, text="second")
        await transport.do(anna, "like_message", chat_id=chat["id"], seq=1)
        again = await transport.call(anna, "send_message", **fields)
        assert (again.status, again.data["text"], again.data["like_count"]) == (200, "second", 1)
        assert again.data["liked"] and again.data["edited_at"]
        await transport.do(anna, "delete_message", chat_id=chat["id"], seq=1)
        again = await transport.call(anna, "send_message", **fields)
        assert (again.status, again.data["text"]) == (200, None) and again.data["deleted_at"]
        assert len(await transport.history(boris, chat["id"])) == 1

    @pytest.mark.parametrize("change", [{"text": "other"}, {"reply_to": 1}, LOCATION, CONTACT], ids=str)
    async def test_other_content_under_the_same_client_id_is_refused(
        self, transport: Transport, other_transport: Transport, anna: Person, boris: Person, change: dict[str, Any]
    ) -> None:
        chat = await transport.create_group(anna, boris)
        fields: dict[str, Any] = {"chat_id": chat["id"], "client_id": str(uuid4())}
        text = {"type": "text", "text": "once"}
        sent = await transport.do(anna, "send_message", **fields, **text)
        other = change if "type" in change else text | change
        for either in (transport, other_transport):
            answer = await either.call(anna, "send_message", **fields, **other)
            assert (answer.status, answer.code) == (409, "client_id_reused")
        entry = await transport.do(boris, "get_chat", chat_id=chat["id"])
        assert (entry["message_count"], entry["version"]) == (2, sent["version"])

    async def test_a_client_id_is_unique_per_sender_and_chat(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat, other = await transport.open_private_chat(anna, boris), await transport.create_group(anna, boris)
        client_id = str(uuid4())
        await transport.send(anna, chat["id"], "one", client_id=client_id)
        await transport.send(boris, chat["id"], "two", client_id=client_id)
        await transport.send(anna, other["id"], "three", client_id=client_id)
        assert [item["text"] for item in await transport.history(anna, chat["id"])] == ["one", "two"]
        assert [item["text"] for item in await transport.history(anna, other["id"])][1:] == ["three"]


class TestReplies:
    async def test_a_message_quotes_one_that_its_sender_sees(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await transport.send(anna, chat["id"], "question")
        answer = await transport.send(boris, chat["id"], "answer", reply_to=1)
        assert answer["reply_to"] == 1
        assert [item["reply_to"] for item in await transport.history(anna, chat["id"])] == [None, 1]

    @pytest.mark.parametrize("reply_to", [2, 3, 2**53 - 1])
    async def test_a_missing_message_cannot_be_quoted(
        self, transport: Transport, anna: Person, boris: Person, reply_to: int
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await transport.send(anna, chat["id"])
        fields = {"type": "text", "text": "?", "client_id": str(uuid4()), "reply_to": reply_to}
        answer = await transport.call(anna, "send_message", chat_id=chat["id"], **fields)
        assert (answer.status, answer.code) == (404, "message_not_found")

    async def test_a_page_has_quoted_messages_from_outside_of_it(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        question = await transport.send(anna, chat["id"], "question")
        await transport.send(boris, chat["id"], "answer", reply_to=1)
        page = await transport.do(anna, "list_messages", chat_id=chat["id"], after=1)
        assert page["replied"] == [question]
        assert {user["id"] for user in page["users"]} == {anna.id, boris.id}
        page = await transport.do(anna, "list_messages", chat_id=chat["id"])
        assert page["replied"] == []

    async def test_a_deleted_quoted_message_is_a_tombstone(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await transport.send(anna, chat["id"], "secret")
        await transport.send(boris, chat["id"], "answer", reply_to=1)
        await transport.do(anna, "delete_message", chat_id=chat["id"], seq=1)
        (quoted,) = (await transport.do(boris, "list_messages", chat_id=chat["id"], after=1))["replied"]
        assert quoted["text"] is None and quoted["deleted_at"]


class TestEditing:
    async def test_the_author_changes_the_text(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        sent = await transport.send(anna, chat["id"], "tpyo")
        await boris.open(chat["id"])
        entry = await transport.do(boris, "mark_read", chat_id=chat["id"], seq=1)
        await boris.forget()
        edited = await transport.do(anna, "edit_message", chat_id=chat["id"], seq=1, text="typo")
        assert edited["edited_at"] and edited["version"] == sent["version"] + 1
        changed = {"text": "typo", "version": edited["version"], "edited_at": edited["edited_at"]}
        assert edited == sent | changed
        assert await transport.history(boris, chat["id"]) == [edited]
        (event,) = await boris.received("messages_changed")
        assert event["messages"] == [{key: value for key, value in edited.items() if key not in OWN}]
        assert (event["since"], event["version"]) == (sent["version"], edited["version"])
        after = await transport.do(boris, "get_chat", chat_id=chat["id"])
        assert after["mine"] == entry["mine"] and after["updated_at"] == entry["updated_at"]
        assert after["last_message"]["text"] == "typo"

    @pytest.mark.parametrize("edit", [True, False], ids=["edit", "delete"])
    async def test_the_chat_list_gets_edits_of_the_newest_message_only(
        self, transport: Transport, anna: Person, boris: Person, edit: bool
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        for text in ("older", "newest"):
            await transport.send(anna, chat["id"], text)
        await boris.forget()
        operation, more = ("edit_message", {"text": "x"}) if edit else ("delete_message", {})
        assert (await transport.call(anna, operation, chat_id=chat["id"], seq=1, **more)).ok
        assert await boris.received("chats_changed") == []
        assert (await transport.call(anna, operation, chat_id=chat["id"], seq=2, **more)).ok
        (event,) = await boris.received("chats_changed")
        (shared,) = event["chats"]
        assert shared["last_message"]["text"] == ("x" if edit else None)
        assert (shared["last_message"]["deleted_at"] is None) == edit

    async def test_the_same_text_again_changes_nothing(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        sent = await transport.send(anna, chat["id"], "same")
        await boris.forget()
        assert await transport.do(anna, "edit_message", chat_id=chat["id"], seq=1, text="same") == sent
        assert await boris.received("chats_changed") == []
        assert (await transport.do(anna, "get_chat", chat_id=chat["id"]))["version"] == sent["version"]

    async def test_messages_of_others_cannot_be_edited(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.create_group(anna, boris)
        sent = await transport.send(boris, chat["id"], "mine")
        answer = await transport.call(anna, "edit_message", chat_id=chat["id"], seq=2, text="x")
        assert (answer.status, answer.code) == (403, "not_author")
        assert await transport.do(anna, "get_message", chat_id=chat["id"], seq=2) == sent

    async def test_captions_can_be_added_and_cleared(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        fields = {"client_id": str(uuid4()), **LOCATION}
        sent = await transport.do(anna, "send_message", chat_id=chat["id"], **fields)
        with_caption = await transport.do(anna, "edit_message", chat_id=chat["id"], seq=1, text="here")
        assert (with_caption["text"], with_caption["location"]) == ("here", sent["location"])
        for taken_away in ({"text": None}, {"unset": ["text"]}):
            with_caption = await transport.do(anna, "edit_message", chat_id=chat["id"], seq=1, text="here")
            without = await transport.do(anna, "edit_message", chat_id=chat["id"], seq=1, **taken_away)
            assert (without["text"], without["version"]) == (None, with_caption["version"] + 1)

    @pytest.mark.parametrize(
        "change",
        [
            *({"text": text} for text in ("", "x" * 8001, 7, None)),
            *({"unset": names} for names in (["text"], ["seq"], ["type"], "text", None, [])),
            {},
            {"text": "x", "unset": ["text"]},
            {"text": None, "unset": ["text"]},
        ],
        ids=lambda change: str(change)[:40],
    )
    async def test_a_text_cannot_be_cleared(
        self, transport: Transport, anna: Person, boris: Person, change: dict[str, Any]
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        sent = await transport.send(anna, chat["id"])
        answer = await transport.call(anna, "edit_message", chat_id=chat["id"], seq=1, **change)
        assert (answer.status, answer.code) == (422, "invalid_input")
        assert await transport.do(anna, "get_message", chat_id=chat["id"], seq=1) == sent

    async def test_a_contact_has_no_text(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await transport.do(anna, "send_message", chat_id=chat["id"], client_id=str(uuid4()), **CONTACT)
        answer = await transport.call(anna, "edit_message", chat_id=chat["id"], seq=1, text="x")
        assert (answer.status, answer.code) == (422, "invalid_input")

    @pytest.mark.parametrize("operation", ["edit_message", "delete_message"])
    async def test_system_messages_cannot_be_changed(
        self, transport: Transport, anna: Person, boris: Person, operation: str
    ) -> None:
        chat = await transport.create_group(anna, boris)
        more = {"text": "x"} if operation == "edit_message" else {}
        for person in (anna, boris):
            answer = await transport.call(person, operation, chat_id=chat["id"], seq=1, **more)
            assert (answer.status, answer.code) == (403, "not_author")
        assert await transport.do(anna, "get_chat", chat_id=chat["id"]) == chat


class TestDeleting:
    async def test_a_tombstone_keeps_sender_and_times_and_no_content(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        file = await upload(anna)
        fields = {"type": "file", "attachment_id": file["id"], "text": "look", "client_id": str(uuid4())}
        sent = await transport.do(anna, "send_message", chat_id=chat["id"], reply_to=1, **fields)
        await transport.do(boris, "like_message", chat_id=chat["id"], seq=2)
        await transport.do(anna, "edit_message", chat_id=chat["id"], seq=2, text="look!")
        before = await transport.do(boris, "get_message", chat_id=chat["id"], seq=2)
        assert before["liked"] and before["edited_at"] and before["reply_to"] and before["attachment"]
        await boris.open(chat["id"])
        answer = await transport.call(anna, "delete_message", chat_id=chat["id"], seq=2)
        assert (answer.status, answer.data) == (204, None)
        tombstone = await transport.do(boris, "get_message", chat_id=chat["id"], seq=2)
        kept = {key: before[key] for key in ("chat_id", "seq", "client_id", "type", "sender_id", "sent_at")}
        cleared = dict.fromkeys(
            ("text", *PAYLOADS, "attachment", "reply_to", "edited_at", "extra", "pinned_at", "forwarded")
        )
        cleared |= {"reactions": [], "reacted": []}
        changed = {"version": before["version"] + 1, "deleted_at": tombstone["deleted_at"]}
        assert tombstone == kept | cleared | changed | {"like_count": 0, "liked": False}
        assert tombstone["deleted_at"] > sent["sent_at"]
        (event,) = await boris.received("messages_changed")
        assert event["messages"] == [tombstone]
        assert (await boris.http.get(f"/api/v1/attachments/{file['id']}")).status_code == 404
        assert (await transport.do(boris, "list_likes", chat_id=chat["id"], seq=2))["items"] == []

    async def test_a_tombstone_has_no_contact_and_no_location(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        for fields in (LOCATION, CONTACT):
            sent = await transport.do(anna, "send_message", chat_id=chat["id"], client_id=str(uuid4()), **fields)
            await transport.do(anna, "delete_message", chat_id=chat["id"], seq=sent["seq"])
        assert [payloads_of(item) for item in await transport.history(boris, chat["id"])] == [
            dict.fromkeys(PAYLOADS)
        ] * 2

    async def test_a_tombstone_still_counts(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        sent = await transport.send(anna, chat["id"])
        await transport.do(anna, "delete_message", chat_id=chat["id"], seq=1)
        entry = await transport.do(boris, "get_chat", chat_id=chat["id"])
        assert (entry["message_count"], entry["mine"]["unread_count"]) == (1, 1)
        assert entry["updated_at"] == sent["sent_at"]
        assert (entry["last_message"]["text"], entry["last_message"]["seq"]) == (None, 1)
        assert entry["last_message"]["deleted_at"]
        assert (await transport.send(anna, chat["id"]))["seq"] == 2

    async def test_a_tombstone_cannot_be_edited_or_liked(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await transport.send(anna, chat["id"])
        await transport.do(anna, "delete_message", chat_id=chat["id"], seq=1)
        tombstone = await transport.do(anna, "get_message", chat_id=chat["id"], seq=1)
        for operation, more in (("edit_message", {"text": "x"}), ("like_message", {})):
            answer = await transport.call(anna, operation, chat_id=chat["id"], seq=1, **more)
            assert (answer.status, answer.code) == (409, "message_deleted")
        assert await transport.do(anna, "unlike_message", chat_id=chat["id"], seq=1) == tombstone

    async def test_deleting_twice_changes_nothing(self, transport: Transport, anna: Person, boris: Person) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await transport.send(anna, chat["id"])
        await transport.do(anna, "delete_message", chat_id=chat["id"], seq=1)
        tombstone = await transport.do(anna, "get_message", chat_id=chat["id"], seq=1)
        await boris.forget()
        assert (await transport.call(anna, "delete_message", chat_id=chat["id"], seq=1)).status == 204
        assert await transport.do(anna, "get_message", chat_id=chat["id"], seq=1) == tombstone
        assert await boris.received("chats_changed") == []

    async def test_the_creator_deletes_all_messages_and_members_only_their_own(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        for _ in range(2):
            await transport.send(boris, chat["id"])
        answer = await transport.call(clara, "delete_message", chat_id=chat["id"], seq=2)
        assert (answer.status, answer.code) == (403, "not_author")
        assert (await transport.call(anna, "delete_message", chat_id=chat["id"], seq=2)).status == 204
        assert (await transport.call(boris, "delete_message", chat_id=chat["id"], seq=3)).status == 204

    async def test_users_of_a_private_chat_delete_only_their_own_messages(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await transport.send(anna, chat["id"])
        answer = await transport.call(boris, "delete_message", chat_id=chat["id"], seq=1)
        assert (answer.status, answer.code) == (403, "not_author")
