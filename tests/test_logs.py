"""The log of a node has every request with its user, its changes, the deliveries and the answer."""

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


async def call(transport: Transport, person: Person, name: str, arguments: Json) -> tuple[str, Json]:
    """Call an operation. Returns its request id and its answer."""
    if transport.name == "http":
        response = await request(person, name, arguments)
        return response.headers["x-request-id"], response.json() if response.content else {}
    ack = await person.socket.client.call(name, arguments)
    answer = ack if ack["ok"] else ack["error"]
    return answer["request_id"], ack.get("data") or answer


async def lines_of(process: Process, request_id: str) -> dict[str, Line]:
    """The log lines of a request by event, after it was answered."""
    await process.wait_for(request_id=request_id, event="answered")
    lines = [line for line in process.lines() if request_id in (line.get("request_id"), *line.get("requests", []))]
    events = [line["event"] for line in lines]
    assert len(events) == len(set(events)), "each stage is logged once"
    return dict(zip(events, lines, strict=True))


class TestChange:
    async def test_a_change_is_logged_at_every_stage(
        self, transport: Transport, anna: Person, boris: Person, chat_id: str, process: Process
    ) -> None:
        arguments = {"chat_id": chat_id, "type": "text", "text": "hello", "client_id": str(uuid4())}
        request_id, message = await call(transport, anna, "send_message", arguments)
        lines = await lines_of(process, request_id)

        assert list(lines) == ["received", "authorized", "committed", "delivered", "answered"]
        assert lines["committed"]["versions"] == {chat_id: message["version"]}
        assert lines["delivered"]["connections"] == len(anna.sockets) + len(boris.sockets)
        answered = lines["answered"]
        assert (answered["status"], answered["code"]) == (201, "ok")
        assert 0 < answered["ms"] < 10_000
        where = {"command": "send_message"} if transport.name == "socket" else {"method": "POST"}
        for line in lines.values():
            # Lines of a commit are logged once for all sends that share it.
            assert line.get("requests") == [request_id] or line.items() >= where.items()
            assert {"timestamp", "level", "logger"} <= line.keys()
        whose = {"user": anna.id, "session": str(anna.session_id)}
        for event in ("authorized", "answered"):
            assert lines[event].items() >= whose.items()
        assert answered["chat"] == chat_id

    @pytest.mark.parametrize("operation", ["like_message", "edit_message", "delete_message", "add_members"])
    async def test_every_kind_of_change_is_logged_with_its_version(
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
        request_id, _ = await call(transport, anna, operation, {"chat_id": chat_id, **arguments})
        committed = (await lines_of(process, request_id))["committed"]
        assert committed["versions"] == {chat_id: message["version"] + 2}

    async def test_a_read_logs_no_commit(
        self, transport: Transport, anna: Person, chat_id: str, process: Process
    ) -> None:
        request_id, _ = await call(transport, anna, "get_chat", {"chat_id": chat_id})
        assert list(await lines_of(process, request_id)) == ["received", "authorized", "answered"]


class TestLogin:
    async def test_a_login_is_logged_with_its_user(self, process: Process) -> None:
        async with httpx.AsyncClient(base_url=f"{process.base}/api/v1/auth") as client:
            account = {"phone": f"+7916{secrets.randbelow(10**7):07}", "password": "long-password"}
            user_id = (await client.post("/register", json=account)).json()["id"]
            form = {"username": account["phone"], "password": account["password"]}
            answer = await client.post("/login", data=form)
        request_id = answer.headers["x-request-id"]
        answered = await process.wait_for(request_id=request_id, event="answered")
        assert (answered["status"], answered["user"]) == (200, user_id)


class TestRefusal:
    async def test_a_refused_operation_is_logged_with_its_code(
        self, transport: Transport, anna: Person, boris: Person, process: Process
    ) -> None:
        nowhere = str(uuid4())
        request_id, problem = await call(transport, boris, "get_chat", {"chat_id": nowhere})
        lines = await lines_of(process, request_id)
        assert list(lines) == ["received", "authorized", "answered"]
        expected = {"status": 404, "code": "chat_not_found", "user": boris.id, "chat": nowhere}
        assert lines["answered"].items() >= expected.items()
        assert problem["request_id"] == request_id

    async def test_a_refused_token_is_logged_without_authorization(self, anna: Person, process: Process) -> None:
        anna.http.headers["Authorization"] = "Bearer garbage"
        request_id, problem = await call(HttpTransport({"paths": {}}), anna, "get_me", {})
        lines = await lines_of(process, request_id)
        assert "authorized" not in lines
        assert lines["answered"].items() >= {"status": 401, "code": problem["code"]}.items()

    async def test_a_refused_connection_is_logged_with_its_code(self, process: Process) -> None:
        raw = await RawSocket.open(process.base)
        refused = json.loads((await raw.join({"token": "garbage"}))[2:])["data"]
        await raw.close()
        line = await process.wait_for(request_id=refused["request_id"], event="refused")
        assert line.items() >= {"code": "not_authenticated", "command": "connect"}.items()

    async def test_refused_input_is_logged_without_the_input(
        self, transport: Transport, anna: Person, chat_id: str, process: Process
    ) -> None:
        arguments = {"chat_id": chat_id, "title": "secret\x00title", "secret_field": "secret"}
        request_id, _ = await call(transport, anna, "rename_chat", arguments)
        lines = await lines_of(process, request_id)
        assert lines["answered"].items() >= {"status": 422, "code": "invalid_input"}.items()
        assert "secret" not in json.dumps(lines)


class TestRequestId:
    @pytest.mark.parametrize("proposed", ["abc-123", "A.b_C", "x" * 64, "0"])
    async def test_a_valid_request_id_is_kept(self, proposed: str, anna: Person, process: Process) -> None:
        answer = await anna.http.get("/api/v1/users/me", headers={"X-Request-ID": proposed})
        assert answer.headers["x-request-id"] == proposed
        assert (await process.wait_for(request_id=proposed, event="answered"))["user"] == anna.id

    @pytest.mark.parametrize(
        "hostile", ["x" * 65, "a b", 'a"b', "a{b}", "../etc", "<b>", "a;b", "ä".encode(), b"a\tb", ""]
    )
    async def test_an_invalid_request_id_is_replaced(
        self, hostile: str | bytes, anna: Person, process: Process
    ) -> None:
        answer = await anna.http.get("/api/v1/users/me", headers={"X-Request-ID": hostile})
        given = answer.headers["x-request-id"]
        assert given.isalnum()
        assert len(given) == 32
        await process.wait_for(request_id=given, event="answered")

    async def test_every_answer_has_its_request_id(self, anna: Person, process: Process) -> None:
        for path in ("/nowhere", "/api/v1/users/x", "/healthz", "/docs/"):
            answer = await anna.http.get(path)
            await process.wait_for(request_id=answer.headers["x-request-id"], event="answered")
            if not answer.is_success:
                assert answer.json()["request_id"] == answer.headers["x-request-id"]

    async def test_every_command_gets_its_own_request_id(self, anna: Person) -> None:
        await anna.connect()
        acks = [await anna.socket.client.call("list_chats", {}) for _ in range(5)]
        assert len({ack["request_id"] for ack in acks}) == 5


class TestSlowQuery:
    async def test_a_slow_query_is_logged_with_its_requests_and_without_its_values(
        self, anna: Person, chat_id: str, process: Process, database: Database
    ) -> None:
        async with database.engine.connect() as connection:
            # Every change of the chat waits for this lock.
            lock = "SELECT 1 FROM chat WHERE id = :chat_id FOR UPDATE"
            await connection.execute(text(lock), {"chat_id": chat_id})
            arguments = {"chat_id": chat_id, "type": "text", "text": "secret text", "client_id": str(uuid4())}
            sending = asyncio.create_task(call(SocketTransport(), anna, "send_message", arguments))
            await wait_for_lock_waiter(connection)
            await connection.execute(text("SELECT pg_sleep(0.3)"))
        request_id, _ = await sending
        line = (await lines_of(process, request_id))["slow query"]
        assert line["ms"] > 200
        assert "FOR NO KEY UPDATE" in line["statement"]
        assert line["requests"] == [request_id]
        assert chat_id not in line["statement"]
        assert "secret" not in json.dumps(line)


class TestCrash:
    async def test_a_crash_is_answered_and_logged_with_its_place_and_without_its_text(
        self, transport: Transport, anna: Person, chat_id: str, process: Process, database: Database
    ) -> None:
        message = await transport.send(anna, chat_id, "secret text")
        arguments = {"chat_id": chat_id, "seq": message["seq"]}
        async with broken_table(database, "like"):
            request_id, problem = await call(transport, anna, "like_message", arguments)
        assert (problem["status"], problem["code"]) == (500, "internal")
        assert problem["request_id"] == request_id
        lines = await lines_of(process, request_id)
        crashed = lines["crashed"]
        assert crashed["error"].endswith("ProgrammingError")
        assert any("crud/likes.py" in frame for frame in crashed["trace"])
        for shown in (json.dumps(lines), json.dumps(problem)):
            assert "does not exist" not in shown
            assert "INSERT" not in shown
            assert "secret" not in shown
        assert lines["answered"].items() >= {"status": 500, "code": "internal"}.items()
        # The same operation succeeds afterwards.
        assert (await transport.do(anna, "like_message", **arguments))["like_count"] == 1
