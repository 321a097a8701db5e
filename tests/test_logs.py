"""The log of a node has every request with its user, its changes, the deliveries and the answer."""

import asyncio
import json
import re
import secrets
import sys
from asyncio.subprocess import PIPE
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from sqlalchemy import text

from chat_app import __version__
from chat_app.database import Database
from chat_app.settings import Settings
from tests.clients import HttpTransport, Person, SocketTransport, Transport
from tests.media.pictures import corners, encoded
from tests.operations import Json, broken_table, request, wait_for_lock_waiter
from tests.process import ROOT, START_SECONDS, Line, Process
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


def stages(transport: Transport, *events: str) -> list[str]:
    """These lines of a request. A command has no `authenticated`: its connection has."""
    return ["received", *(["authenticated"] if transport.name == "http" else []), *events]


class TestChange:
    async def test_a_change_is_logged_at_every_stage(
        self, transport: Transport, anna: Person, boris: Person, chat_id: str, process: Process
    ) -> None:
        arguments = {"chat_id": chat_id, "type": "text", "text": "hello", "client_id": str(uuid4())}
        request_id, message = await call(transport, anna, "send_message", arguments)
        lines = await lines_of(process, request_id)

        assert list(lines) == stages(transport, "authorized", "committed", "delivered", "answered")
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
        assert answered.items() >= {**whose, "chat": chat_id, "seq": message["seq"]}.items()

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
        lines = await lines_of(process, request_id)
        assert lines["committed"]["versions"] == {chat_id: message["version"] + 2}
        for line in (lines["authorized"], lines["answered"]):
            assert (line["chat"], line.get("seq")) == (chat_id, arguments.get("seq"))

    async def test_a_read_logs_no_commit(
        self, transport: Transport, anna: Person, chat_id: str, process: Process
    ) -> None:
        request_id, _ = await call(transport, anna, "get_chat", {"chat_id": chat_id})
        assert list(await lines_of(process, request_id)) == stages(transport, "authorized", "answered")

    async def test_what_is_made_and_removed_is_logged_by_id(
        self, transport: Transport, anna: Person, boris: Person, process: Process
    ) -> None:
        await anna.connect()
        arguments = {"title": "Ours", "member_ids": [boris.id], "client_id": str(uuid4())}
        request_id, group = await call(transport, anna, "create_group", arguments)
        lines = await lines_of(process, request_id)
        for event in ("committed", "answered"):
            assert lines[event].items() >= {"chat": group["id"], "joined": [anna.id, boris.id]}.items()

        arguments = {"chat_id": group["id"], "user_id": boris.id}
        request_id, _ = await call(transport, anna, "remove_member", arguments)
        lines = await lines_of(process, request_id)
        assert lines["committed"].items() >= {"chat": group["id"], "removed": [boris.id]}.items()
        assert lines["answered"]["user_id"] == boris.id

    async def test_changes_without_events_are_logged_too(self, anna: Person, process: Process) -> None:
        picture = encoded(corners(), "PNG")
        image = b64encode(picture).decode()
        for method, path, content in (
            ("PATCH", "/users/me", {"json": {"bio": "Here I am"}}),
            ("PUT", "/users/me/avatar", {"json": {"image": image}}),
            ("POST", "/attachments", {"files": {"file": ("picture.png", picture, "image/png")}}),
        ):
            answer = await anna.http.request(method, f"/api/v1{path}", **content)  # type: ignore[arg-type]  # of each kind
            assert answer.is_success
            lines = await lines_of(process, answer.headers["x-request-id"])
            assert lines["committed"]["user"] == anna.id
            if path == "/attachments":
                made = answer.json()["id"]
                assert lines["committed"]["attachment_id"] == lines["answered"]["attachment_id"] == made


class TestLogin:
    async def test_a_login_is_logged_with_its_user(self, process: Process) -> None:
        async with httpx.AsyncClient(base_url=f"{process.base}/api/v1/auth") as client:
            account = {"phone": f"+7916{secrets.randbelow(10**7):07}", "password": "long-password"}
            user_id = (await client.post("/register", json=account)).json()["id"]
            form = {"username": account["phone"], "password": account["password"]}
            answer = await client.post("/login", data=form)
        lines = await lines_of(process, answer.headers["x-request-id"])
        assert list(lines) == ["received", "committed", "logged in", "answered"]
        assert lines["logged in"].items() >= {"user": user_id, "session": lines["answered"]["session"]}.items()
        assert (lines["answered"]["status"], lines["answered"]["user"]) == (200, user_id)


class TestClient:
    async def test_a_request_is_logged_with_its_path_its_route_and_its_client(
        self, anna: Person, chat_id: str, process: Process
    ) -> None:
        await SocketTransport().send(anna, chat_id)
        for path, route in (
            (f"/api/v1/chats/{chat_id}/messages/1", "/api/v1/chats/{chat_id}/messages/{seq}"),
            (f"/api/v1/users/{anna.id}", "/api/v1/users/{user_id}"),
            ("/api/v1/auth/sessions", "/api/v1/auth/sessions"),
            ("/docs/", "/docs/"),
        ):
            answer = await anna.http.get(path, headers={"User-Agent": "Tests/1.0 (Linux x86_64)"})
            lines = await lines_of(process, answer.headers["x-request-id"])
            client = {"path": path, "client": "127.0.0.1", "agent": "Tests/1.0 (Linux x86_64)"}
            assert lines["received"].items() >= client.items()
            assert lines["answered"]["route"] == route

    async def test_a_connection_is_logged_with_its_client_and_its_lines_with_its_id(
        self, boris: Person, chat_id: str, process: Process
    ) -> None:
        request_id, _ = await call(SocketTransport(), boris, "get_chat", {"chat_id": chat_id})
        received = (await lines_of(process, request_id))["received"]
        connection = {"connection": received["connection"], "command": "connect"}
        for event in ("received", "authenticated", "connected"):
            (line,) = process.lines(event=event, **connection)
            assert line["client"] == "127.0.0.1" and "aiohttp" in line["agent"]
        (line,) = process.lines(event="connected", user=boris.id)
        assert line.items() >= {**connection, "session": str(boris.session_id)}.items()
        await boris.socket.close()
        await process.wait_for(event="disconnected", connection=connection["connection"], user=boris.id)

    @pytest.mark.parametrize(
        ("agent", "shown"),
        [
            ("Tests +79161234567", "Tests +…"),
            ("a" * 250, "…"),
            ("Chat/2.1 ä", "Chat/2.1 ……"),
            ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Gecko/20100101 Firefox/131.0",) * 2,
        ],
    )
    async def test_a_user_agent_is_logged_without_what_may_be_a_secret(
        self, agent: str, shown: str, anna: Person, process: Process
    ) -> None:
        answer = await anna.http.get("/api/v1/users/me", headers={"User-Agent": agent.encode()})
        assert (await lines_of(process, answer.headers["x-request-id"]))["received"]["agent"] == shown


class TestRefusal:
    async def test_a_refused_operation_is_logged_with_its_code(
        self, transport: Transport, anna: Person, boris: Person, process: Process
    ) -> None:
        nowhere = str(uuid4())
        request_id, problem = await call(transport, boris, "get_chat", {"chat_id": nowhere})
        lines = await lines_of(process, request_id)
        assert list(lines) == stages(transport, "refused", "answered")
        expected = {"status": 404, "code": "chat_not_found", "user": boris.id, "chat": nowhere}
        for event in ("refused", "answered"):
            assert lines[event].items() >= {**expected, "reason": problem["detail"]}.items()
        where = "connection" if transport.name == "socket" else "client"
        assert where in lines["refused"], "at CHAT_LOG_LEVEL=WARNING it is the only line"
        assert problem["request_id"] == request_id

    @pytest.mark.parametrize(
        ("operation", "code"),
        [("delete_chat", "not_creator"), ("edit_message", "not_author"), ("delete_message", "not_author")],
    )
    async def test_what_a_member_may_not_do_is_not_logged_as_authorized(
        self, operation: str, code: str, transport: Transport, anna: Person, boris: Person, process: Process
    ) -> None:
        group = await SocketTransport().create_group(anna, boris)
        message = await SocketTransport().send(anna, group["id"])
        arguments = {"chat_id": group["id"], "seq": message["seq"], "text": "better"}
        fields = {"delete_chat": ["chat_id"], "delete_message": ["chat_id", "seq"]}.get(operation, list(arguments))
        request_id, _ = await call(transport, boris, operation, {name: arguments[name] for name in fields})
        lines = await lines_of(process, request_id)
        assert list(lines) == stages(transport, "refused", "answered")
        assert lines["refused"]["code"] == code

    async def test_a_refused_message_is_not_logged_as_authorized(
        self, transport: Transport, boris: Person, process: Process
    ) -> None:
        arguments = {"chat_id": str(uuid4()), "type": "text", "text": "hello", "client_id": str(uuid4())}
        request_id, _ = await call(transport, boris, "send_message", arguments)
        lines = await lines_of(process, request_id)
        assert list(lines) == stages(transport, "refused", "answered")
        assert lines["refused"].items() >= {"code": "chat_not_found", "chat": arguments["chat_id"]}.items()

    async def test_a_refused_token_is_logged_without_authorization(self, anna: Person, process: Process) -> None:
        anna.http.headers["Authorization"] = "Bearer garbage"
        request_id, problem = await call(HttpTransport({"paths": {}}), anna, "get_me", {})
        lines = await lines_of(process, request_id)
        assert list(lines) == ["received", "refused", "answered"]
        for event in ("refused", "answered"):
            assert lines[event].items() >= {"status": 401, "code": problem["code"]}.items()

    async def test_a_refused_connection_is_logged_with_its_code(self, process: Process) -> None:
        raw = await RawSocket.open(process.base)
        refused = json.loads((await raw.join({"token": "garbage"}))[2:])["data"]
        await raw.close()
        line = await process.wait_for(request_id=refused["request_id"], event="refused")
        assert line.items() >= {"code": "not_authenticated", "command": "connect", "client": "127.0.0.1"}.items()
        assert line["connection"] and "websockets" in line["agent"]

    @pytest.mark.parametrize(
        ("given", "pointer", "reason"),
        [
            ({"title": "secret\x00title", "secret_field": "secret"}, "/title", "string_pattern_mismatch"),
            ({"title": "Trip", "secret_field": "secret"}, "/…", "extra_forbidden"),
            ({"title": ["secret"]}, "/title", "string_type"),
        ],
    )
    async def test_refused_input_is_logged_with_its_place_and_without_the_input(
        self,
        given: Json,
        pointer: str,
        reason: str,
        transport: Transport,
        anna: Person,
        chat_id: str,
        process: Process,
    ) -> None:
        request_id, _ = await call(transport, anna, "update_mine", {"chat_id": chat_id, **given})
        lines = await lines_of(process, request_id)
        expected = {"status": 422, "code": "invalid_input", "pointer": pointer, "reason": reason}
        for event in ("refused", "answered"):
            assert lines[event].items() >= expected.items()
        assert "secret" not in json.dumps(lines)

    async def test_a_body_that_is_too_large_is_refused_once(self, anna: Person, process: Process) -> None:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b" " * 2**19

        answer = await anna.http.patch("/api/v1/users/me", content=body())
        lines = await lines_of(process, answer.headers["x-request-id"])
        assert lines["refused"]["code"] == answer.json()["code"] == "too_large"


class TestProbes:
    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
    async def test_health_checks_and_scrapes_are_logged_for_debugging_only(
        self, path: str, anna: Person, process: Process
    ) -> None:
        answer = await anna.http.get(path)
        assert answer.is_success
        lines = await lines_of(process, answer.headers["x-request-id"])
        assert {line["level"] for line in lines.values()} == {"debug"}


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(service_settings: Settings) -> AsyncIterator[Start]:
    """`await start(CHAT_LOG_LEVEL="WARNING")`: one more node, with these settings."""
    started: list[Process] = []

    async def begin(**environment: str) -> Process:
        process = Process(service_settings)
        process.environment |= environment
        started.append(process)
        await process.start()
        return process

    yield begin
    for process in started:
        await process.stop()


class TestSecurityEvents:
    async def test_they_are_logged_without_the_lines_of_requests(
        self, start: Start, make_person: MakePerson, at: At
    ) -> None:
        process = await start(CHAT_LOG_LEVEL="WARNING", CHAT_REVISION="4711abc")
        started = await process.wait_for(event="started")
        assert started.items() >= {"version": __version__, "revision": "4711abc", "node": None}.items()

        phone, password = f"+7916{secrets.randbelow(10**7):07}", "long-password"
        form = {"username": phone, "password": password}
        async with httpx.AsyncClient(base_url=f"{process.base}/api/v1") as client:
            user_id = (await client.post("/auth/register", json={"phone": phone, "password": password})).json()["id"]
            await client.post("/auth/login", data=form | {"password": "a-wrong-one"})
            tokens = [(await client.post("/auth/login", data=form)).json()["access_token"] for _ in range(2)]
            client.headers["Authorization"] = f"Bearer {tokens[0]}"
            await client.get("/users/me")
            change = {"current_password": password, "new_password": "another-password"}
            assert (await client.post("/auth/password", json=change)).status_code == 204
            assert (await client.get(f"/chats/{uuid4()}")).status_code == 404
        anna = at(process.base, await make_person("Anna"))
        await anna.connect()
        await SocketTransport().call(anna, "get_chat", chat_id=str(uuid4()))
        raw = await RawSocket.open(process.base)
        await raw.join({"token": tokens[1]})
        await raw.close()
        await process.wait_for(event="refused", command="connect")

        lines = process.lines(logger="chat_app.audit")
        # On a busy machine a query may be slow.
        assert len(lines) == len([line for line in process.lines() if line["event"] != "slow query"])
        found = [line.get("code", line["event"]) for line in lines]
        assert found == [
            *("started", "registered", "bad_credentials", "logged in", "logged in", "password changed"),
            *("sessions revoked", "chat_not_found", "chat_not_found", "session_revoked"),
        ]
        assert {line["level"] for line in lines} == {"info"}
        for line in process.lines(event="refused"):
            assert "connection" in line or line["client"] == "127.0.0.1"
        (revoked,) = process.lines(event="sessions revoked")
        assert (revoked["user"], len(revoked["revoked"])) == (user_id, 1)

    async def test_at_error_not_even_they_are_logged(self, start: Start) -> None:
        process = await start(CHAT_LOG_LEVEL="ERROR")
        async with httpx.AsyncClient(base_url=process.base) as client:
            assert (await client.get("/nowhere")).status_code == 404
        await process.stop()
        assert process.written == []


class TestOneLineForEachRequest:
    async def test_it_has_what_the_stages_have(
        self, transport: Transport, start: Start, make_person: MakePerson, at: At
    ) -> None:
        process = await start(CHAT_LOG_LINES="requests", CHAT_LOG_LEVEL="INFO")
        anna, boris = at(process.base, await make_person("Anna")), at(process.base, await make_person("Boris"))
        await anna.connect()
        opened_id, chat = await call(SocketTransport(), anna, "open_private_chat", {"user_id": boris.id})
        await process.wait_for(request_id=opened_id)
        first = len(process.lines())
        arguments = {"chat_id": chat["id"], "type": "text", "text": "hello", "client_id": str(uuid4())}
        request_id, message = await call(transport, anna, "send_message", arguments)
        refused_id, _ = await call(transport, anna, "get_chat", {"chat_id": str(uuid4())})
        await process.wait_for(request_id=refused_id, event="answered")

        sent, refused, answered = process.lines()[first:]
        whose = {"user": anna.id, "session": str(anna.session_id), "chat": chat["id"], "seq": message["seq"]}
        about = {"event": "answered", "request_id": request_id, "status": 201, "code": "ok", **whose}
        assert sent.items() >= about.items()
        if transport.name == "http":
            assert {"route", "path", "client", "agent", "ms"} <= sent.keys()
        else:
            (connected,) = process.lines(event="connected", connection=sent["connection"])
            assert {"client", "agent"} <= connected.keys() and {"command", "ms"} <= sent.keys()
        # A refusal is a security event too.
        assert [line["event"] for line in (refused, answered)] == ["refused", "answered"]
        assert refused["request_id"] == answered["request_id"] == refused_id


class TestDialect:
    FIRST = ("event", "level", "logger", "timestamp")

    def check(self, written: list[str]) -> list[Line]:
        """Check that every line is of one form. Returns them."""
        assert written
        parsed = [json.loads(line) for line in written]
        for line, text_of_line in zip(parsed, written, strict=True):
            assert set(self.FIRST) <= line.keys(), text_of_line
            assert all(isinstance(line[name], str) for name in self.FIRST), text_of_line
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", line["timestamp"]), text_of_line
            assert text_of_line == json.dumps(line, separators=(",", ":"), ensure_ascii=False), "spaces are left out"
        return parsed

    async def test_every_line_of_a_server_with_workers_is_json(
        self, service_settings: Settings, make_person: MakePerson, at: At
    ) -> None:
        process = Process(service_settings)
        process.options = ("--workers", "2")
        process.environment["CHAT_LOG_LEVEL"] = "INFO"
        await process.start()
        try:
            anna = at(process.base, await make_person("Anna"))
            await anna.connect()
            await SocketTransport().call(anna, "list_chats")
            picture = {"file": ("picture.png", encoded(corners(), "PNG"), "image/png")}
            assert (await anna.http.post("/api/v1/attachments", files=picture)).is_success
            broken = {"file": ("picture.png", encoded(corners(), "PNG")[:60], "image/png")}
            assert not (await anna.http.post("/api/v1/attachments", files=broken)).is_success
            workers = psutil.Process(process.process.pid).children()
            next(worker for worker in workers if "--multiprocessing-fork" in worker.cmdline()).kill()
            await process.wait_for(event="worker ended")
        finally:
            await process.stop()
        lines = self.check(process.written)
        nodes = [line["node"] for line in lines if line["event"] == "started"]
        assert all(nodes) and len(set(nodes)) == len(nodes) >= 2

    async def test_a_line_of_a_library_is_json(self, service_settings: Settings, at: At) -> None:
        process = Process(service_settings)
        await process.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(process.base.rpartition(":")[2]))
        writer.write(b"not HTTP at all\r\n\r\n")
        await reader.read()
        writer.close()
        await process.stop()
        lines = self.check(process.written)
        assert any(line["logger"] == "uvicorn.error" for line in lines)

    @pytest.mark.parametrize("variable", ["CHAT_PORT", "CHAT_DATABASE_URL"])
    async def test_a_start_that_is_refused_ends_with_a_line(self, variable: str, service_settings: Settings) -> None:
        process = Process(service_settings)
        process.environment[variable] = "nothing-secret"
        command = (sys.executable, "-m", "chat_app", "run")
        running = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=process.environment, stdout=PIPE, stderr=PIPE
        )
        printed, written = await asyncio.wait_for(running.communicate(), START_SECONDS)
        (line,) = self.check(written.decode().splitlines())
        assert (running.returncode, printed) == (1, b"")
        assert line.items() >= {"event": "failed", "level": "error", "logger": "chat_app"}.items()
        assert line["reason"].startswith(f"{variable}: ") and "nothing-secret" not in line["reason"]


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
