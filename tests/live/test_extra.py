"""`extra`: a free JSON object of a message or a user, returned as it was sent and never read by the service."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text as sql

from chat_app.database import Database
from tests.clients import Answer, Person, SocketTransport, Transport, http_answer
from tests.live.test_messages import CONTACT, LOCATION, upload
from tests.raw import RawSocket
from tests.service import Service

Json = dict[str, Any]

EXTRA: Json = {
    "z": [1, 2.5, True, None, {"deep": {"deeper": {}}}],
    "a": "\U0001f600 \\u0000 ё",
    "big": 2**53,
    "e": 1e-300,
}
FIVE_LEVELS: Json = {"a": [{"b": [{"c": 1}]}]}
TEXT = {"type": "text", "text": "hello"}
CUSTOM = {"type": "custom", "extra": {"poll": 7}, "text": "A poll"}


def of_bytes(number: int) -> Json:
    """An object of so many bytes as compact JSON."""
    return {"ё": "x" * (number - len('{"ё":""}'.encode()))}


REFUSED: dict[str, tuple[Any, str]] = {
    "too large": (of_bytes(4097), "too_large"),
    "too deep": ({"a": [{"b": [{"c": []}]}]}, "too_deep"),
    "far too deep": ({"a": eval("[" * 90 + "]" * 90)}, "too_deep"),
    "a NUL in a name": ({"a": {"\x00": 1}}, "string_pattern_mismatch"),
    "a NUL in a list": ({"a": ["\x00"]}, "string_pattern_mismatch"),
    "a list": ([1], "dict_type"),
    "a text": ("{}", "dict_type"),
}


async def problem_of(transport: Transport, person: Person, chat_id: str, fields: Json) -> Json:
    """The one error in the answer to a message."""
    fields = {"client_id": str(uuid4()), **fields}
    if transport.name == "socket":
        problem = (await person.socket.client.call("send_message", {"chat_id": chat_id, **fields}))["error"]
    else:
        problem = (await person.http.post(f"/api/v1/chats/{chat_id}/messages", json=fields)).json()
    (error,) = problem["errors"]
    return {"status": problem["status"], **error}


@pytest.fixture
async def chat_id(anna: Person, boris: Person) -> str:
    """A private chat that Boris has open."""
    made: str = (await SocketTransport().open_private_chat(anna, boris))["id"]
    await boris.open(made)
    await boris.forget()
    return made


async def send(transport: Transport, person: Person, chat_id: str, **fields: Any) -> Any:
    return await transport.do(person, "send_message", chat_id=chat_id, **{"client_id": str(uuid4()), **fields})


class TestMessages:
    @pytest.mark.parametrize("kind", [TEXT, LOCATION, CONTACT, CUSTOM, {"type": "file"}], ids=lambda kind: kind["type"])
    async def test_every_type_carries_it_as_sent(
        self, transport: Transport, kind: Json, anna: Person, boris: Person, chat_id: str
    ) -> None:
        file = {"attachment_id": (await upload(anna))["id"]} if kind["type"] == "file" else {}
        sent = await send(transport, anna, chat_id, **kind | file | {"extra": EXTRA})
        assert sent["extra"] == EXTRA and list(sent["extra"]) == list(EXTRA)
        (event,) = await boris.received("messages_changed")
        assert event["messages"][0]["extra"] == EXTRA
        (read,) = await transport.history(boris, chat_id)
        assert read["extra"] == EXTRA and type(read["extra"]["z"][2]) is bool
        answer = await transport.send(boris, chat_id, reply_to=1)
        assert answer["extra"] is None
        (quoted,) = (await boris.received("messages_changed"))[-1]["replied"]
        assert quoted["extra"] == EXTRA
        changes = await transport.do(boris, "list_changes", chat_id=chat_id, since=sent["version"])
        assert [row["extra"] for row in (*changes["messages"], *changes["replied"])] == [None, EXTRA]

    async def test_a_custom_message_shows_its_text_in_previews(
        self, transport: Transport, anna: Person, boris: Person, chat_id: str
    ) -> None:
        for fields in (CUSTOM, {"type": "custom", "extra": {}}):
            await send(transport, anna, chat_id, **fields)
            last = (await transport.do(boris, "get_chat", chat_id=chat_id))["last_message"]
            assert (last["type"], last["text"]) == ("custom", fields.get("text"))
            assert "extra" not in last

    async def test_null_is_none_and_a_custom_message_needs_one(
        self, transport: Transport, anna: Person, chat_id: str
    ) -> None:
        assert (await send(transport, anna, chat_id, **TEXT, extra=None))["extra"] is None
        for fields in ({"text": "A poll"}, {"extra": None}):
            error = await problem_of(transport, anna, chat_id, {"type": "custom", **fields})
            assert (error["status"], error["pointer"]) == (422, "/extra")

    @pytest.mark.parametrize("name", REFUSED)
    @pytest.mark.parametrize("kind", [TEXT, CUSTOM], ids=["text", "custom"])
    async def test_what_is_too_large_or_no_object_is_refused(
        self, transport: Transport, name: str, kind: Json, anna: Person, boris: Person, chat_id: str
    ) -> None:
        await anna.forget()
        value, code = REFUSED[name]
        error = await problem_of(transport, anna, chat_id, kind | {"extra": value})
        assert (error["status"], error["pointer"], error["code"]) == (422, "/extra", code)
        assert await transport.history(boris, chat_id) == []

    @pytest.mark.parametrize(
        "written", ["NaN", "-Infinity", "1e400", "9" * 30, r'"\ud800"', '"\x00"', r'{"\udc00": 1}']
    )
    async def test_what_is_not_json_everywhere_is_refused_in_a_packet(
        self, written: str, anna: Person, boris: Person, chat_id: str, service: Service
    ) -> None:
        raw = await RawSocket.connected(service.base, anna.token)
        fields = {"chat_id": chat_id, "client_id": str(uuid4()), **TEXT}
        ack = await raw.call("send_message", json.dumps(fields)[:-1] + f', "extra": {{"a": [{written}]}}}}')
        await raw.close()
        assert (ack["error"]["status"], ack["error"]["code"]) == (422, "invalid_input")
        assert await SocketTransport().history(boris, chat_id) == []

    async def test_the_largest_and_the_deepest_are_taken(
        self, transport: Transport, anna: Person, chat_id: str
    ) -> None:
        for value in (of_bytes(4096), FIVE_LEVELS, {}):
            assert (await send(transport, anna, chat_id, **TEXT, extra=value))["extra"] == value

    @pytest.mark.parametrize(
        ("again", "status"),
        [
            ({"b": {"d": 2, "c": [1]}, "a": 1}, 200),
            ({"a": 1.0, "b": {"c": [1.0], "d": 2.0}}, 200),
            ({"a": True, "b": {"c": [1], "d": 2}}, 409),
            ({"a": 1, "b": {"c": [1, 1], "d": 2}}, 409),
            (None, 409),
        ],
    )
    async def test_a_retry_is_compared_as_json(
        self, transport: Transport, anna: Person, chat_id: str, again: Json | None, status: int
    ) -> None:
        fields = {"chat_id": chat_id, "client_id": str(uuid4()), **TEXT}
        first = await transport.do(anna, "send_message", **fields, extra={"a": 1, "b": {"c": [1], "d": 2}})
        answer = await transport.call(anna, "send_message", **fields, extra=again)
        assert answer.status == status and (not answer.ok or answer.data == first)

    async def test_system_messages_have_none(self, transport: Transport, anna: Person, boris: Person) -> None:
        group = await transport.create_group(anna, boris)
        (system,) = await transport.history(boris, group["id"])
        assert (system["type"], system["extra"]) == ("system", None)
        answer = await transport.call(anna, "edit_message", chat_id=group["id"], seq=1, extra={})
        assert (answer.status, answer.code) == (403, "not_author")

    async def test_a_tombstone_has_none(
        self, transport: Transport, database: Database, anna: Person, boris: Person, chat_id: str
    ) -> None:
        await send(transport, anna, chat_id, **CUSTOM)
        await transport.do(anna, "delete_message", chat_id=chat_id, seq=1)
        (tombstone,) = await transport.history(boris, chat_id)
        assert (tombstone["type"], tombstone["extra"], tombstone["text"]) == ("custom", None, None)
        async with database.engine.connect() as connection:
            stored = sql("SELECT count(*) FROM message WHERE chat_id = CAST(:id AS uuid) AND extra IS NOT NULL")
            assert await connection.scalar(stored, {"id": chat_id}) == 0


class TestEditing:
    async def edit(self, transport: Transport, anna: Person, chat_id: str, **fields: Any) -> Answer:
        return await transport.call(anna, "edit_message", chat_id=chat_id, seq=1, **fields)

    async def test_a_new_extra_takes_a_version_and_is_no_edit_of_the_text(
        self, transport: Transport, anna: Person, boris: Person, chat_id: str
    ) -> None:
        sent = await send(transport, anna, chat_id, **TEXT, extra={"a": 1})
        await boris.forget()
        for step, value in enumerate(({"a": True}, {"a": [1]}, None, {"a": 1}), 1):
            edited = (await self.edit(transport, anna, chat_id, extra=value)).data
            assert edited == sent | {"extra": value, "version": sent["version"] + step}
            assert (await transport.history(boris, chat_id)) == [edited]
        events = await boris.received("messages_changed")
        assert [event["messages"][0]["extra"] for event in events] == [{"a": True}, {"a": [1]}, None, {"a": 1}]
        assert await boris.received("chats_changed") == [], "the list does not show it"

    async def test_the_same_again_is_nothing(
        self, transport: Transport, anna: Person, boris: Person, chat_id: str
    ) -> None:
        sent = await send(transport, anna, chat_id, **TEXT, extra={"a": 1, "b": 2})
        await boris.forget()
        for fields in (
            {"extra": {"b": 2.0, "a": 1.0}},
            {"text": "hello"},
            {"extra": {"a": 1, "b": 2}, "text": "hello"},
        ):
            assert (await self.edit(transport, anna, chat_id, **fields)).data == sent
        assert await boris.received_all() == []

    async def test_a_new_text_leaves_it_and_both_change_together(
        self, transport: Transport, anna: Person, boris: Person, chat_id: str
    ) -> None:
        sent = await send(transport, anna, chat_id, **CUSTOM)
        edited = (await self.edit(transport, anna, chat_id, text="Closed")).data
        assert edited["extra"] == CUSTOM["extra"] and edited["edited_at"]
        both = (await self.edit(transport, anna, chat_id, text="Open", extra={"poll": 8})).data
        assert (both["text"], both["extra"], both["version"]) == ("Open", {"poll": 8}, sent["version"] + 2)
        cleared = (await self.edit(transport, anna, chat_id, unset=["text"])).data
        assert (cleared["text"], cleared["extra"]) == (None, {"poll": 8})

    async def test_a_contact_has_one_and_a_custom_message_keeps_one(
        self, transport: Transport, anna: Person, chat_id: str
    ) -> None:
        await send(transport, anna, chat_id, **CUSTOM)
        for fields in ({"extra": None}, {"unset": ["extra"]}, {"text": "x", "extra": None}):
            answer = await self.edit(transport, anna, chat_id, **fields)
            assert (answer.status, answer.code) == (422, "invalid_input")
        await send(transport, anna, chat_id, **CONTACT)
        edited = await transport.do(anna, "edit_message", chat_id=chat_id, seq=2, extra={"a": 1})
        assert edited["extra"] == {"a": 1} and edited["edited_at"] is None
        assert (await transport.do(anna, "edit_message", chat_id=chat_id, seq=2, unset=["extra"]))["extra"] is None

    async def test_something_has_to_be_sent(self, transport: Transport, anna: Person, chat_id: str) -> None:
        sent = await send(transport, anna, chat_id, **TEXT)
        assert (await self.edit(transport, anna, chat_id)).status == 422
        assert await transport.history(anna, chat_id) == [sent]


class TestUsers:
    async def patch(self, anna: Person, **fields: Any) -> Answer:
        return http_answer(await anna.http.patch("/api/v1/users/me", json=fields))

    async def test_everybody_reads_that_of_a_profile(self, anna: Person, boris: Person) -> None:
        assert (await anna.http.get("/api/v1/users/me")).json()["extra"] is None
        for value in (EXTRA, {"a": 1}, {"a": True}, None):
            assert (await self.patch(anna, extra=value)).data["extra"] == value
            seen = (await boris.http.get(f"/api/v1/users/{anna.id}")).json()["extra"]
            assert seen == value and (seen != {"a": 1} or seen["a"] is (value or {})["a"])
        await self.patch(anna, extra={"a": 1})
        assert (await self.patch(anna, bio="More")).data["extra"] == {"a": 1}
        assert (await self.patch(anna, unset=["extra"])).data["extra"] is None

    async def test_it_is_smaller_than_that_of_a_message(self, anna: Person) -> None:
        assert (await self.patch(anna, extra=of_bytes(2048))).ok
        response: httpx.Response = await anna.http.patch("/api/v1/users/me", json={"extra": of_bytes(2049)})
        (error,) = response.json()["errors"]
        assert (response.status_code, error["pointer"], error["code"]) == (422, "/extra", "too_large")
        assert (await self.patch(anna, extra={"a": {"\x00": 1}})).status == 422
