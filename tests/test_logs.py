"""From the log of a node alone: what came in, who it was, what it changed, who was told, what was answered."""

import asyncio
import json
import secrets
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from chat_app.database import Database
from tests.clients import HttpTransport, Person, SocketTransport, Transport
from tests.operations import Json, broken_table, request, wait_for_lock_waiter
from tests.process import Line, Process
from tests.raw import RawSocket
from tests.service import MakePerson

At = Callable[[str, Person], Person]


@pytest.fixture
async def anna(make_person: MakePerson, process: Process, at: At) -> Person:
    return at(process.base, await make_person("Anna"))


@pytest.fixture
async def boris(make_person: MakePerson, process: Process, at: At) -> Person:
    person = at(process.base, await make_person("Boris"))
    await person.connect()
    return person


@pytest.fixture
async def chat_id(anna: Person, boris: Person) -> str:
    chat = await SocketTransport().open_private_chat(anna, boris)
    return str(chat["id"])


async def asked(transport: Transport, person: Person, name: str, arguments: Json) -> tuple[str, Json]:
    """The request id of an operation, and its answer."""
    if transport.name == "http":
        response = await request(person, name, arguments)
        return response.headers["x-request-id"], response.json() if response.content else {}
    ack = await person.socket.client.call(name, arguments)
    said = ack if ack["ok"] else ack["error"]
    return said["request_id"], ack.get("data") or said


async def lines_of(process: Process, request_id: str) -> dict[str, Line]:
    """By event, once it was answered."""
    await process.wait_for(request_id=request_id, event="answered")
    lines = [line for line in process.lines() if request_id in (line.get("request_id"), *line.get("requests", []))]
    events = [line["event"] for line in lines]
    assert len(events) == len(set(events)), "each stage is told once"
    return dict(zip(events, lines, strict=True))


class TestAChange:
    async def test_is_told_at_every_stage(
        self, transport: Transport, anna: Person, boris: Person, chat_id: str, process: Process
    ) -> None:
        arguments = {"chat_id": chat_id, "type": "text", "text": "hello", "client_id": str(uuid4())}
        request_id, message = await asked(transport, anna, "send_message", arguments)
        lines = await lines_of(process, request_id)

        assert list(lines) == ["received", "authorized", "committed", "delivered", "answered"]
        assert lines["committed"]["versions"] == {chat_id: message["version"]}
        assert lines["delivered"]["connections"] == len(anna.sockets) + len(boris.sockets)
        answered = lines["answered"]
        assert (answered["status"], answered["code"]) == (201, "ok")
        assert 0 < answered["ms"] < 10_000
        where = {"command": "send_message"} if transport.name == "socket" else {"method": "POST"}
        for line in lines.values():
            # Those of a commit are told once for all whose messages share it.
            assert line.get("requests") == [request_id] or line.items() >= where.items()
            assert {"timestamp", "level", "logger"} <= line.keys()
        whose = {"user": anna.id, "session": str(anna.session_id)}
        for event in ("authorized", "answered"):
            assert lines[event].items() >= whose.items()
        assert answered["chat"] == chat_id

    @pytest.mark.parametrize("operation", ["like_message", "edit_message", "delete_message", "add_members"])
    async def test_of_any_kind_is_told_with_its_version(
        self,
        transport: Transport,
        operation: str,
        anna: Person,
        chat_id: str,
        process: Process,
        make_person: MakePerson,
    ) -> None:
        message = await transport.send(anna, chat_id)
        await transport.send(anna, chat_id, "a newer one")
        arguments: dict[str, Any] = {
            "edit_message": {"seq": message["seq"], "text": "better"},
            "add_members": {"user_ids": [(await make_person()).id]},
        }.get(operation, {"seq": message["seq"]})
        request_id, _ = await asked(transport, anna, operation, {"chat_id": chat_id, **arguments})
        committed = (await lines_of(process, request_id))["committed"]
        assert committed["versions"] == {chat_id: message["version"] + 2}

    async def test_that_changes_nothing_commits_nothing_worth_telling(
        self, transport: Transport, anna: Person, chat_id: str, process: Process
    ) -> None:
        request_id, _ = await asked(transport, anna, "get_chat", {"chat_id": chat_id})
        assert list(await lines_of(process, request_id)) == ["received", "authorized", "answered"]


class TestLoggingIn:
    async def test_is_told_with_who_it_is(self, process: Process) -> None:
        async with httpx.AsyncClient(base_url=f"{process.base}/api/v1/auth") as client:
            account = {"phone": f"+7916{secrets.randbelow(10**7):07}", "password": "long-password"}
            user_id = (await client.post("/register", json=account)).json()["id"]
            form = {"username": account["phone"], "password": account["password"]}
            answer = await client.post("/login", data=form)
        request_id = answer.headers["x-request-id"]
        answered = await process.wait_for(request_id=request_id, event="answered")
        assert (answered["status"], answered["user"]) == (200, user_id)


class TestARefusal:
    async def test_of_a_chat_is_told_with_its_code(
        self, transport: Transport, anna: Person, boris: Person, process: Process
    ) -> None:
        nowhere = str(uuid4())
        request_id, problem = await asked(transport, boris, "get_chat", {"chat_id": nowhere})
        lines = await lines_of(process, request_id)
        assert list(lines) == ["received", "authorized", "answered"]
        told = {"status": 404, "code": "chat_not_found", "user": boris.id, "chat": nowhere}
        assert lines["answered"].items() >= told.items()
        assert problem["request_id"] == request_id

    async def test_of_a_token_is_told_before_anything_else(self, anna: Person, process: Process) -> None:
        anna.http.headers["Authorization"] = "Bearer garbage"
        request_id, problem = await asked(HttpTransport({"paths": {}}), anna, "get_me", {})
        lines = await lines_of(process, request_id)
        assert "authorized" not in lines
        assert lines["answered"].items() >= {"status": 401, "code": problem["code"]}.items()

    async def test_of_a_connection_is_told_with_its_code(self, process: Process) -> None:
        raw = await RawSocket.open(process.base)
        refused = json.loads((await raw.join({"token": "garbage"}))[2:])["data"]
        await raw.close()
        line = await process.wait_for(request_id=refused["request_id"], event="refused")
        assert line.items() >= {"code": "not_authenticated", "command": "connect"}.items()

    async def test_of_bad_input_is_told_without_the_input(
        self, transport: Transport, anna: Person, chat_id: str, process: Process
    ) -> None:
        arguments = {"chat_id": chat_id, "title": "secret\x00title", "secret_field": "secret"}
        request_id, _ = await asked(transport, anna, "rename_chat", arguments)
        lines = await lines_of(process, request_id)
        assert lines["answered"].items() >= {"status": 422, "code": "invalid_input"}.items()
        assert "secret" not in json.dumps(lines)


class TestARequestId:
    @pytest.mark.parametrize("proposed", ["abc-123", "A.b_C", "x" * 64, "0"])
    async def test_that_is_harmless_is_kept(self, proposed: str, anna: Person, process: Process) -> None:
        answer = await anna.http.get("/api/v1/users/me", headers={"X-Request-ID": proposed})
        assert answer.headers["x-request-id"] == proposed
        assert (await process.wait_for(request_id=proposed, event="answered"))["user"] == anna.id

    @pytest.mark.parametrize(
        "hostile", ["x" * 65, "a b", 'a"b', "a{b}", "../etc", "<b>", "a;b", "ä".encode(), b"a\tb", ""]
    )
    async def test_that_is_not_is_replaced(self, hostile: str | bytes, anna: Person, process: Process) -> None:
        answer = await anna.http.get("/api/v1/users/me", headers={"X-Request-ID": hostile})
        given = answer.headers["x-request-id"]
        assert given.isalnum()
        assert len(given) == 32
        await process.wait_for(request_id=given, event="answered")

    async def test_is_in_every_answer_also_of_errors(self, anna: Person, process: Process) -> None:
        for path in ("/nowhere", "/api/v1/users/x", "/healthz", "/docs/"):
            answer = await anna.http.get(path)
            await process.wait_for(request_id=answer.headers["x-request-id"], event="answered")
            if not answer.is_success:
                assert answer.json()["request_id"] == answer.headers["x-request-id"]

    async def test_of_a_command_differs_each_time(self, anna: Person) -> None:
        await anna.connect()
        acks = [await anna.socket.client.call("list_chats", {}) for _ in range(5)]
        assert len({ack["request_id"] for ack in acks}) == 5


class TestASlowQuery:
    async def test_is_told_without_its_values_and_with_whose_request_it_was(
        self, anna: Person, chat_id: str, process: Process, database: Database
    ) -> None:
        async with database.engine.connect() as connection:
            # Whoever wants to write to the chat waits for this one.
            lock = "SELECT 1 FROM chat WHERE id = :chat_id FOR UPDATE"
            await connection.execute(text(lock), {"chat_id": chat_id})
            arguments = {"chat_id": chat_id, "type": "text", "text": "secret text", "client_id": str(uuid4())}
            sending = asyncio.create_task(asked(SocketTransport(), anna, "send_message", arguments))
            await wait_for_lock_waiter(connection)
            await connection.execute(text("SELECT pg_sleep(0.3)"))
        request_id, _ = await sending
        line = (await lines_of(process, request_id))["slow query"]
        assert line["ms"] > 200
        assert "FOR NO KEY UPDATE" in line["statement"]
        assert line["requests"] == [request_id]
        assert chat_id not in line["statement"]
        assert "secret" not in json.dumps(line)


class TestACrash:
    async def test_is_answered_and_told_by_where_it_happened_but_not_with_its_text(
        self, transport: Transport, anna: Person, chat_id: str, process: Process, database: Database
    ) -> None:
        message = await transport.send(anna, chat_id, "secret text")
        arguments = {"chat_id": chat_id, "seq": message["seq"]}
        async with broken_table(database, "like"):
            request_id, problem = await asked(transport, anna, "like_message", arguments)
        assert (problem["status"], problem["code"]) == (500, "internal")
        assert problem["request_id"] == request_id
        lines = await lines_of(process, request_id)
        crashed = lines["crashed"]
        assert crashed["error"].endswith("ProgrammingError")
        assert any("crud/likes.py" in frame for frame in crashed["trace"])
        for told in (json.dumps(lines), json.dumps(problem)):
            assert "does not exist" not in told
            assert "INSERT" not in told
            assert "secret" not in told
        assert lines["answered"].items() >= {"status": 500, "code": "internal"}.items()
        # And then it goes on.
        assert (await transport.do(anna, "like_message", **arguments))["like_count"] == 1
