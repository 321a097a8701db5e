"""Traces of two nodes as a collector receives them: which spans belong together, and what is in none of them."""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from chat_app.cli.embedded import embedded_valkey
from chat_app.database import Database
from chat_app.live.commands import COMMANDS
from chat_app.settings import Settings
from chat_app.tracing import ENDPOINT
from tests import test_promises_privacy as privacy
from tests.clients import DEADLINE, HttpTransport, Person, Socket, SocketTransport, Transport, until
from tests.crud.test_outbox import HOLD
from tests.operations import ROUTES, Json, make_scene, request, valid_arguments
from tests.process import ROOT, Process
from tests.service import MakePerson
from tests.test_logs import call
from tests.test_run import read_until_ready

At = Callable[[str, Person], Person]

# The trace of a client, and a span in it.
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
ERROR = 2
# What the operators have in the address of their gateway.
GATEWAY_KEY = "key-of-the-gateway"
PROBES = {"/healthz", "/readyz", "/metrics"}
# What the HTTP tour can't call last, since it ends the session or the chat.
LAST = ("leave_chat", "delete_chat", "change_password", "logout")
pytestmark = pytest.mark.timeout(180)


class Received:
    """A span, and the node that exported it."""

    def __init__(self, node: str, span: Span) -> None:
        self.node, self.span, self.name = node, span, span.name
        self.trace, self.id, self.parent = (part.hex() for part in (span.trace_id, span.span_id, span.parent_span_id))

    @cached_property
    def values(self) -> Json:
        return values_of(self.span.attributes)


def values_of(attributes: Any) -> Json:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


class Collector:
    """Receives spans by OTLP over HTTP, and codes as their gateway does, on one port."""

    def __init__(self) -> None:
        self.exports: list[bytes] = []
        self.headers_of_codes: list[Json] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    collector.exports.append(body)
                else:
                    collector.headers_of_codes.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Write nothing to stderr."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self, since: int = 0) -> Iterator[Received]:
        for export in self.exports[since:]:
            for resource in ExportTraceServiceRequest.FromString(export).resource_spans:
                node = values_of(resource.resource.attributes)["service.instance.id"]
                for scope in resource.scope_spans:
                    yield from (Received(node, span) for span in scope.spans)

    async def wait_for(self, name: str, *, trace: str | None = None, **values: Any) -> list[Received]:
        """All spans of this name so far, of this trace and with these values of ours, as soon as there are any."""
        wanted = {f"chat.{key}": value for key, value in values.items()}
        found: list[Received] = []

        def find() -> list[Received]:
            named = [span for span in self.spans() if span.name == name and trace in (None, span.trace)]
            found[:] = [span for span in named if wanted.items() <= span.values.items()]
            return found

        await until(find)
        return found

    async def wait_for_one(self, name: str, **values: Any) -> Received:
        (found,) = await self.wait_for(name, **values)
        return found

    async def wait_for_all_of(self, node: Process) -> None:
        """Return when everything that the node has done was exported."""
        request_id = f"last-{secrets.token_hex(8)}"
        async with httpx.AsyncClient() as client:
            await client.get(f"{node.base}/nowhere", headers={"X-Request-ID": request_id})
        await self.wait_for("GET", request_id=request_id)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.server.shutdown()
    running.server.server_close()


def traced(settings: Settings, endpoint: str, **environment: str) -> Process:
    node = Process(settings)
    node.environment |= {ENDPOINT: endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50", **environment}
    return node


async def start(stack: AsyncExitStack, settings: Settings, endpoint: str, **environment: str) -> Process:
    """A node that ends with the stack, also if its start fails."""
    node = traced(settings, endpoint, **environment)
    stack.push_async_callback(node.stop)
    await node.start()
    return node


@pytest.fixture(scope="module")
async def nodes(service_settings: Settings, collector: Collector) -> AsyncIterator[list[Process]]:
    """Two nodes that export their spans."""
    with embedded_valkey() as bus:
        more = {"CHAT_BUS_URL": bus, "CHAT_SMS_URL": f"{collector.base}/send?key={GATEWAY_KEY}"}
        async with AsyncExitStack() as stack:
            yield [await start(stack, service_settings, collector.base, **more) for _ in range(2)]


@pytest.fixture
async def anna(make_person: MakePerson, nodes: list[Process], at: At) -> Person:
    return at(nodes[0].base, await make_person("Anna"))


@pytest.fixture
async def boris(make_person: MakePerson, nodes: list[Process], at: At) -> Person:
    """A user who is connected to the other node."""
    person = at(nodes[1].base, await make_person("Boris"))
    await person.connect()
    return person


def name_of(transport: Transport, operation: str) -> str:
    """The name of the span of an operation."""
    route = ROUTES[operation]
    return operation if transport.name == "socket" else f"{route.method.upper()} {route.path}"


def new_text(chat_id: str) -> Json:
    return {"chat_id": chat_id, "type": "text", "text": "hello", "client_id": str(uuid4())}


class TestTrace:
    async def test_a_message_is_one_trace_from_its_request_to_its_delivery_by_another_node(
        self, transport: Transport, anna: Person, boris: Person, collector: Collector
    ) -> None:
        chat_id = (await transport.open_private_chat(anna, boris))["id"]
        request_id, _ = await call(transport, anna, "send_message", new_text(chat_id))
        name = name_of(transport, "send_message")
        sent = await collector.wait_for_one(name, request_id=request_id, code="ok")
        assert (sent.parent, sent.span.kind) == ("", Span.SPAN_KIND_SERVER)
        delivered = await collector.wait_for_one("deliver", trace=sent.trace, connections=1)
        assert delivered.node != sent.node
        assert delivered.parent == sent.id
        statements = [span for span in collector.spans() if span.trace == sent.trace and "db.statement" in span.values]
        assert len(statements) >= 3
        assert {(span.node, span.span.kind) for span in statements} == {(sent.node, Span.SPAN_KIND_CLIENT)}
        # No spans of the ASGI messages or of the inside of FastAPI.
        names = {span.name for span in collector.spans() if span.trace == sent.trace and span not in statements}
        assert names - {span.name for span in statements} == {name, "deliver"}

    async def test_a_request_continues_the_trace_of_its_client(
        self, anna: Person, boris: Person, collector: Collector
    ) -> None:
        trace = secrets.token_hex(16)
        arguments = {"user_id": boris.id}
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        await anna.http.post("/api/v1/chats/private", json=arguments, headers=headers)
        opened = await collector.wait_for_one("POST /api/v1/chats/private", trace=trace)
        assert opened.parent == "b7ad6b7169203331"
        await collector.wait_for_one("deliver", trace=trace)

    async def test_messages_that_share_a_commit_keep_their_traces(
        self, nodes: list[Process], anna: Person, boris: Person, collector: Collector, database: Database
    ) -> None:
        chat_id = (await SocketTransport().open_private_chat(anna, boris))["id"]
        sockets = [await anna.connect() for _ in range(6)]
        async with database.raw_transaction() as holder:
            await holder.fetch(HOLD, [UUID(chat_id)])
            calls = [asyncio.create_task(each.client.call("send_message", new_text(chat_id))) for each in sockets]
            sending = {"event": "received", "command": "send_message", "user": anna.id}
            await until(lambda: len(nodes[0].lines(**sending)) == len(calls))
        ids = [(await each)["request_id"] for each in calls]
        sent = [await collector.wait_for_one("send_message", request_id=each) for each in ids]
        assert len({span.trace for span in sent}) == len(sent)
        for span in sent:
            await collector.wait_for_one("deliver", trace=span.trace)
        linked = {link.span_id.hex() for span in sent for link in span.span.links}
        assert linked, "some of them have to share a commit for this test to mean anything"
        assert linked < {span.id for span in sent}
        with_statements = {span.parent for span in collector.spans() if "db.statement" in span.values}
        assert linked <= with_statements

    async def test_a_command_begins_a_trace_with_a_link_to_that_of_its_handshake(
        self, anna: Person, collector: Collector
    ) -> None:
        connection = Socket()
        anna.sockets.append(connection)
        await connection.connect(anna.base, {"token": anna.token}, headers={"traceparent": TRACEPARENT})
        request_id, _ = await call(SocketTransport(), anna, "list_chats", {})
        listed = await collector.wait_for_one("list_chats", request_id=request_id)
        assert (listed.parent, listed.trace != TRACE) == ("", True), "a connection may last for days"
        assert [link.trace_id.hex() for link in listed.span.links] == [TRACE]

    async def test_a_refusal_has_its_code_and_is_no_error_of_the_service(
        self, transport: Transport, anna: Person, boris: Person, collector: Collector
    ) -> None:
        await anna.connect()
        request_id, _ = await call(transport, anna, "get_chat", {"chat_id": str(uuid4())})
        refused = await collector.wait_for_one(name_of(transport, "get_chat"), request_id=request_id)
        assert refused.values["chat.code"] == "chat_not_found"
        assert refused.span.status.code != ERROR

    async def test_a_crash_is_an_error_without_its_text(
        self, anna: Person, boris: Person, collector: Collector, database: Database
    ) -> None:
        sent = await SocketTransport().send(anna, (await SocketTransport().open_private_chat(anna, boris))["id"])
        arguments = {"chat_id": sent["chat_id"], "seq": sent["seq"]}
        async with privacy.broken_table(database, "like"):
            request_id, _ = await call(SocketTransport(), anna, "like_message", arguments)
        crashed = await collector.wait_for_one("like_message", request_id=request_id, code="internal")
        assert (crashed.span.status.code, crashed.span.status.message) == (ERROR, "")

    async def test_the_gateway_gets_the_trace_of_the_request_for_a_code(
        self, nodes: list[Process], collector: Collector
    ) -> None:
        phone = f"+7926{secrets.randbelow(10**7):07}"
        async with httpx.AsyncClient(base_url=nodes[0].base) as client:
            account = {"phone": phone, "password": "long-password"}
            await client.post("/api/v1/auth/register", json=account)
            answer = await client.post("/api/v1/auth/codes", json={"phone": phone, "purpose": "login"})
        requested = await collector.wait_for_one(
            "POST /api/v1/auth/codes", request_id=answer.headers["x-request-id"], code="ok"
        )
        await until(lambda: collector.headers_of_codes)
        assert requested.trace in {headers["traceparent"].split("-")[1] for headers in collector.headers_of_codes}
        await collector.wait_for_one("POST", trace=requested.trace)

    async def test_probes_heartbeats_and_sweeps_have_no_spans(self, nodes: list[Process], collector: Collector) -> None:
        async with httpx.AsyncClient(base_url=nodes[0].base) as client:
            for path in PROBES:
                assert (await client.get(path)).status_code == 200
        await asyncio.sleep(2.5)  # more than one sweep
        await collector.wait_for_all_of(nodes[0])
        spans = list(collector.spans())
        assert {span.values.get("http.route") for span in spans}.isdisjoint(PROBES)
        assert {span.span.kind for span in spans if not span.parent} == {Span.SPAN_KIND_SERVER}


class Tour(privacy.TestP20):
    """Its conversation and its mistakes, with users of its own."""

    PHONES = "+79991234511", "+79991234512"
    USERNAME = "wanted_by_two"


def strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings_in(part)


class TestP20:
    """Spans are no place for phones, hashes, tokens and own titles either, nor for texts, queries and values of SQL."""

    async def test_no_span_of_any_operation_has_a_secret(
        self,
        nodes: list[Process],
        collector: Collector,
        make_person: MakePerson,
        at: At,
        openapi: Json,
        database: Database,
    ) -> None:
        began = len(collector.exports)
        arguments = await self.call_everything([at(nodes[0].base, await make_person(f"Person {n}")) for n in range(3)])
        tour = Tour()
        accounts = [
            await privacy.Account.open(node.base, phone, password)
            for node, phone, password in zip(nodes, tour.PHONES, tour.PASSWORDS, strict=True)
        ]
        try:
            await tour.converse(accounts[0], accounts[1], [SocketTransport(), HttpTransport(openapi)])
            await tour.make_mistakes(accounts[0], database)
            for account in accounts:
                # The database quotes it in the error of the second.
                await account.person.http.patch("/api/v1/users/me", json={"username": tour.USERNAME})
        finally:
            for account in accounts:
                await account.person.close()
        for node in nodes:
            await collector.wait_for_all_of(node)

        spans = list(collector.spans(began))
        names = {span.name for span in spans}
        routes = {f"{route.method.upper()} {route.path}" for route in ROUTES.values() if route.path not in PROBES}
        assert names >= {*COMMANDS, *routes, "unknown", "deliver"}
        failed = [span.span for span in spans if span.span.status.code == ERROR]
        assert {Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT} <= {span.kind for span in failed}
        assert not any(span.status.message for span in failed)
        exported = b"".join(collector.exports[began:]).decode(errors="replace")
        assert "EXECUTE __asyncpg" in exported, "the statement that has ids in its text"
        phones = [phone for number in tour.PHONES for phone in (number, number[1:], number[-10:])]
        secret = [
            *(*phones, *tour.PASSWORDS, *accounts[0].tokens, *accounts[1].tokens, *await tour.hashes(database)),
            *(tour.OWN_TITLE, tour.TEXT, tour.FRIEND, tour.USERNAME, "New user"),
            *(GATEWAY_KEY, "changed_since=", "limit=20"),
            # Words as short as these are in statements too.
            *(value for value in strings_in(arguments) if len(value) > 6 or value.isdigit()),
        ]
        assert len(secret) > 60
        assert privacy.find(secret, exported) == []

    async def call_everything(self, people: list[Person]) -> list[Json]:
        """Call every operation over both transports. Returns the arguments."""
        creator, member, guest = people
        every = []
        for transport in (SocketTransport(), HttpTransport({"paths": {}})):
            scene = await make_scene(SocketTransport(), creator, member, guest)
            arguments = valid_arguments(scene)
            every.append({"chat_id": scene.chat_id, "token": creator.token, **arguments})
            for name in sorted(arguments, key=lambda name: (name in LAST, name)):
                if transport.name == "http" and name in ROUTES:
                    await request(creator, name, arguments[name])
                elif transport.name == "socket" and name in COMMANDS:
                    await creator.socket.client.call(name, arguments[name], timeout=DEADLINE)
        return every


async def test_workers_export_their_spans_at_their_end_too(service_settings: Settings, collector: Collector) -> None:
    node = traced(service_settings, collector.base, OTEL_BSP_SCHEDULE_DELAY="60000")
    command = (sys.executable, "-m", "chat_app", "run", "--no-seed", "--workers", "2")
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    parent = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=node.environment, **pipes)
    request_id = secrets.token_hex(8)
    try:
        await read_until_ready(parent)
        async with httpx.AsyncClient() as client:
            await client.get(f"{node.base}/nowhere", headers={"X-Request-ID": request_id})
    finally:
        parent.terminate()
        await parent.communicate()
    assert parent.returncode == 0
    await collector.wait_for("GET", request_id=request_id)


async def test_a_collector_that_does_not_answer_delays_neither_requests_nor_the_end(
    service_settings: Settings,
) -> None:
    async with AsyncExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        node = await start(stack, service_settings, f"http://127.0.0.1:{silent.getsockname()[1]}")
        async with httpx.AsyncClient(base_url=node.base, timeout=DEADLINE) as client:
            for _ in range(20):
                assert (await client.get("/api/v1/users/me")).status_code == 401
        node.process.terminate()
        assert await asyncio.wait_for(node.process.wait(), 10) == 0


def test_a_missing_package_ends_the_start_with_one_line(tmp_path: Path) -> None:
    program = "import sys; sys.modules['opentelemetry.sdk'] = None; from chat_app.cli.commands import main; main()"
    environment = os.environ | {ENDPOINT: "http://127.0.0.1:4318", "CHAT_DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program, "run"], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert ENDPOINT in line and "opentelemetry.sdk" in line and "requirements.txt" in line
    assert list(tmp_path.iterdir()) == [], "nothing was started"


def test_without_an_endpoint_nothing_is_wrapped_or_loaded() -> None:
    program = """
import sys, asyncpg, httpx, types
from chat_app import tracing
from chat_app.cli import commands
tracing.configure()
assert type(asyncpg.Connection.fetch) is type(httpx.AsyncHTTPTransport.handle_async_request) is types.FunctionType
assert not hasattr(asyncpg.Connection.fetch, "__wrapped__")
assert tracing.begin("get_chat", "1", None) is None
assert tracing.headers() == {}
print([name for name in sys.modules if name.startswith(("opentelemetry.exporter", "opentelemetry.instrumentation"))])
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
