"""The part of a request before its body is limited in bytes and time, and nothing else is."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import pytest

from chat_app.api import http_protocol
from chat_app.api.http_protocol import HEAD_BYTES, HttpProtocol
from chat_app.cli.serving import configuration
from tests.clients import DEADLINE, Person, until
from tests.raw import RawSocket
from tests.service import Service

pytestmark = pytest.mark.one_node

GET = b"GET /healthz HTTP/1.1\r\nHost: chat\r\n"
CHUNKED = b"POST /api/v1/auth/register HTTP/1.1\r\nHost: chat\r\nTransfer-Encoding: chunked\r\n\r\n"
POLL = "/socket.io/?EIO=4&transport=polling"
MANY = b"".join(b"x-%05d: value\r\n" % number for number in range(HEAD_BYTES // 16))


class Client:
    """A connection that sends any bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with suppress(ConnectionError):  # it may be closed, with an answer left to read
            await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next response."""
        async with asyncio.timeout(DEADLINE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.rstrip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), headers, body

    async def is_refused(self, status: int, code: str) -> None:
        """Wait for a problem and the end of the connection."""
        answered, headers, body = await self.answer()
        problem = json.loads(body)
        assert (answered, problem["status"], problem["code"]) == (status, status, code)
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert headers["x-request-id"] == problem["request_id"]
        await self.is_closed()

    async def is_closed(self) -> None:
        async with asyncio.timeout(DEADLINE):
            with suppress(ConnectionError):
                assert await self.reader.read() == b""


Connect = Callable[[], Awaitable[Client]]


@pytest.fixture
async def connect(service: Service) -> AsyncIterator[Connect]:
    url = urlsplit(service.base)
    clients: list[Client] = []

    async def make() -> Client:
        clients.append(Client(*await asyncio.open_connection(url.hostname, url.port)))
        return clients[-1]

    yield make
    for client in clients:
        client.writer.transport.abort()


@pytest.fixture
async def client(connect: Connect) -> Client:
    return await connect()


@pytest.fixture
def short_head_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.5)


@pytest.fixture
def later(short_head_time: None, connect: Connect) -> Callable[[], Awaitable[None]]:
    """`await later()`: wait until the time for a head has passed on all connections open now."""

    async def wait() -> None:
        await (await connect()).is_refused(408, "too_slow")

    return wait


@pytest.fixture
async def unhandled() -> AsyncIterator[list[dict[str, Any]]]:
    """Exceptions in callbacks of the event loop."""
    loop = asyncio.get_running_loop()
    contexts: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    yield contexts
    loop.set_exception_handler(None)


def protocols(service: Service) -> list[HttpProtocol]:
    found: Any = service.server.server_state.connections
    return [protocol for protocol in found if isinstance(protocol, HttpProtocol)]


class TestBytes:
    @pytest.mark.parametrize(
        "endless",
        [
            pytest.param(GET + MANY * 2, id="headers"),
            pytest.param(GET + b"x: " + b"a" * HEAD_BYTES, id="header"),
            pytest.param(GET + b"a" * HEAD_BYTES, id="name"),
            pytest.param(b"GET /" + b"a" * HEAD_BYTES, id="target"),
            pytest.param(CHUNKED + b"1\r\nx\r\n0\r\n" + MANY * 2, id="trailers"),
            pytest.param(CHUNKED + b"1\r\nx\r\n0\r\nx: " + b"a" * HEAD_BYTES * 2, id="trailer"),
            pytest.param(CHUNKED + b"1;" + b"a" * HEAD_BYTES * 2, id="chunk-extension"),
            pytest.param(b"\r\n" * HEAD_BYTES, id="empty-lines"),
        ],
    )
    async def test_a_head_without_end_is_too_large(self, client: Client, endless: bytes) -> None:
        await client.send(endless)
        await client.is_refused(431, "headers_too_large")

    async def test_a_head_without_end_in_small_parts_is_too_large(self, client: Client) -> None:
        await client.send(GET + b"x: ")
        for _ in range(HEAD_BYTES // 100 + 1):
            await client.send(b"a" * 100)
            await asyncio.sleep(0)
        await client.is_refused(431, "headers_too_large")

    @pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 431)])
    async def test_the_limit_of_a_head_is_exact(self, client: Client, more: int, status: int) -> None:
        padding = HEAD_BYTES - len(GET + b"x: \r\n\r\n") + more
        await client.send(GET + b"x: " + b"a" * padding + b"\r\n\r\n")
        assert (await client.answer())[0] == status

    async def test_many_megabytes_of_headers_are_not_kept(self, client: Client, service: Service) -> None:
        await client.send(GET)
        with suppress(ConnectionError):
            for _ in range(200):
                client.writer.write(MANY * 10)
                await client.writer.drain()
        await until(lambda: not any(protocol.client == client_of(client) for protocol in protocols(service)))

    async def test_complete_requests_before_a_refused_one_are_answered_first(self, client: Client) -> None:
        await client.send((GET + b"\r\n") * 3 + GET + MANY * 2)
        for _ in range(3):
            assert (await client.answer())[0] == 200
        await client.is_refused(431, "headers_too_large")

    async def test_pipelined_requests_are_parsed_a_few_at_a_time(self, client: Client, service: Service) -> None:
        requests = 2000
        await client.send((GET + b"\r\n") * requests)
        (protocol,) = [protocol for protocol in protocols(service) if protocol.client == client_of(client)]
        most = 0
        for _ in range(requests):
            assert (await client.answer())[0] == 200
            most = max(most, len(protocol.pipeline))
        assert 0 < most < 200

    async def test_a_body_in_tiny_chunks_is_read(self, client: Client) -> None:
        body = b'{"phone": "1", "password": "' + b"x" * 50_000 + b'"}'
        await client.send(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Type: application/json\r\n\r\n"))
        await client.send(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\nx-after: 1\r\n\r\n")
        status, _, answer = await client.answer()
        assert (status, json.loads(answer)["code"]) == (422, "invalid_input")
        await client.send(GET + b"\r\n")
        assert (await client.answer())[0] == 200


async def test_a_body_that_is_not_read_ends_the_connection(client: Client) -> None:
    # Starlette answers before the body is counted. Without this the server would wait for the rest without a limit.
    preflight = b"OPTIONS /healthz HTTP/1.1\r\nHost: chat\r\nOrigin: http://localhost\r\n"
    await client.send(preflight + b"Access-Control-Request-Method: GET\r\nContent-Length: 1000000\r\n\r\nx")
    assert (await client.answer())[0] in (200, 400)
    await client.is_closed()


def client_of(client: Client) -> Any:
    return client.writer.get_extra_info("sockname")


@pytest.mark.usefixtures("short_head_time")
class TestTime:
    async def test_a_silent_connection_is_closed(self, client: Client) -> None:
        await client.is_refused(408, "too_slow")

    @pytest.mark.parametrize("first", [b"", GET + b"\r\n", CHUNKED + b"1"], ids=["head", "next-head", "chunk"])
    @pytest.mark.parametrize("parts", [GET + b"x: " + b"a" * 1000, b"\r\n" * 500], ids=["head", "empty-lines"])
    async def test_a_connection_that_trickles_is_closed(self, client: Client, first: bytes, parts: bytes) -> None:
        await client.send(first)
        if first.startswith(GET):
            assert (await client.answer())[0] == 200
        if b"chunked" in first:
            parts = b";" + b"a" * 1000

        async def trickle() -> None:
            for place in count():
                await client.send(parts[place % len(parts)].to_bytes())
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        await client.is_refused(408, "too_slow")
        trickling.cancel()

    async def test_a_refused_connection_is_answered_once(
        self, client: Client, later: Callable[[], Awaitable[None]], unhandled: list[dict[str, Any]]
    ) -> None:
        await client.send(GET)
        await client.send(MANY * 2)
        assert (await client.answer())[0] == 431
        await later()
        assert unhandled == []

    async def test_many_silent_connections_are_closed_and_others_served(self, connect: Connect, anna: Person) -> None:
        clients = [await connect() for _ in range(300)]
        assert (await anna.http.get("/healthz")).status_code == 200
        await asyncio.gather(*(client.is_refused(408, "too_slow") for client in clients))

    async def test_a_websocket_stays_open(self, anna: Person, later: Callable[[], Awaitable[None]]) -> None:
        raw = await RawSocket.connected(anna.base, anna.token)
        await later()
        assert (await raw.call("list_chats"))["ok"]
        await raw.close()

    async def test_a_request_that_is_being_answered_stays_open(
        self, client: Client, anna: Person, later: Callable[[], Awaitable[None]]
    ) -> None:
        path = f"{POLL}&sid={json.loads((await anna.http.get(POLL)).text[1:])['sid']}"
        await client.send(f"GET {path} HTTP/1.1\r\nHost: chat\r\n\r\n".encode())
        await later()
        assert (await anna.http.post(path, content="40/other,{}")).status_code == 200
        async with asyncio.timeout(DEADLINE):
            assert b" 200 OK" in await client.reader.readuntil(b"44/other,")

    async def test_an_idle_connection_stays_open_for_75_seconds(
        self, client: Client, service: Service, later: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert configuration(service.app).timeout_keep_alive == 75
        await client.send(GET + b"\r\n")
        assert (await client.answer())[0] == 200
        await later()
        (protocol,) = [protocol for protocol in protocols(service) if protocol.client == client_of(client)]
        monkeypatch.setattr(protocol, "timeout_keep_alive", 0.1)
        await client.send(GET + b"\r\n")
        assert (await client.answer())[0] == 200
        await client.is_closed()
