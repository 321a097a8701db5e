"""Bodies that are too large or too slow are refused and not kept."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from starlette.types import Message, Receive, Scope, Send

from chat_app.api import body_limit
from tests.clients import Person, http_answer
from tests.service import Service

REGISTER = "/api/v1/auth/register"
ATTACHMENTS = "/api/v1/attachments"
MEGABYTE = 2**20
JSON, FORM = "application/json", "multipart/form-data; boundary=x"
HEADS = {JSON: b'{"image": "', FORM: b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'}


async def pieces(head: bytes, size: int) -> AsyncIterator[bytes]:
    yield head
    for _ in range(size // 65536):
        yield b"x" * 65536


@asynccontextmanager
async def sending(service: Service, head: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which the first line of a request was sent. The block has to end within 3 s."""
    url = urlsplit(service.base)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(f"{head} HTTP/1.1\r\nHost: chat\r\n".encode())
    async with asyncio.timeout(3):
        yield reader, writer
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


LIMITED = [("POST", REGISTER, 1), ("POST", ATTACHMENTS, 30), ("PUT", "/api/v1/users/me/avatar", 16)]


@pytest.mark.parametrize(
    ("method", "path", "limit", "is_chunked"),
    [
        *((*limited, is_chunked) for limited in LIMITED for is_chunked in (False, True)),
        # The body of an unknown path is not read, so only its announced length counts.
        ("POST", "/nowhere", 1, False),
    ],
)
async def test_a_larger_body_than_allowed_is_too_large(
    anna: Person, method: str, path: str, limit: int, is_chunked: bool
) -> None:
    size = (limit + 1) * MEGABYTE
    kind = FORM if path == ATTACHMENTS else JSON
    content = pieces(HEADS[kind], size) if is_chunked else b"x" * size
    response = await anna.http.request(method, path, content=content, headers={"Content-Type": kind})
    assert http_answer(response).code == "too_large"
    assert response.headers["connection"] == "close"
    assert (await anna.http.get("/api/v1/users/me")).status_code == 200


async def test_a_body_within_the_limit_is_read(anna: Person) -> None:
    body = json.dumps({"title": "x", "member_ids": [], "padding": "x" * (MEGABYTE - 100)})
    response = await anna.http.post("/api/v1/chats/groups", content=body, headers={"Content-Type": JSON})
    assert http_answer(response).code == "invalid_input"


async def test_a_body_announced_as_too_large_is_refused_before_it_arrives(service: Service) -> None:
    async with sending(service, f"POST {REGISTER}") as (reader, writer):
        writer.write(b"Content-Length: 99999999999\r\n\r\n")
        assert b" 413 " in await reader.readline()


async def test_an_endless_body_is_not_kept(anna: Person) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    response = await anna.http.post(
        REGISTER, content=pieces(HEADS[JSON], 200 * MEGABYTE), headers={"Content-Type": JSON}
    )
    assert response.status_code == 413
    assert process.memory_info().rss - before < 30 * MEGABYTE


async def test_a_body_that_stops_is_too_slow(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "PATIENCE_SECONDS", 0.3)
    async with sending(service, f"POST {REGISTER}") as (reader, writer):
        writer.write(b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
        answer = await reader.read()
    assert b" 408 " in answer.splitlines()[0]
    assert b'"code":"too_slow"' in answer


async def test_a_body_that_trickles_is_too_slow(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "PATIENCE_SECONDS", 0.5)

    async def trickle(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.05)

    async with sending(service, f"POST {REGISTER}") as (reader, writer):
        writer.write(b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
        trickling = asyncio.create_task(trickle(writer))
        assert b" 408 " in await reader.readline()
        trickling.cancel()


async def test_a_body_for_long_polling_that_stops_is_too_slow(
    anna: Person, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/socket.io/?EIO=4&transport=polling"
    sid = json.loads((await anna.http.get(path)).text[1:])["sid"]
    monkeypatch.setattr(body_limit, "PATIENCE_SECONDS", 0.3)
    async with sending(service, f"POST {path}&sid={sid}") as (reader, writer):
        writer.write(b"Content-Length: 1000\r\n\r\n4")
        assert b" 408 " in await reader.readline()


class SlowClient:
    """Sends a body at a steady pace by a simulated clock."""

    def __init__(self, size: int, pace: int) -> None:
        self.left, self.pace, self.now = size, pace, 0.0
        self.answers: list[Message] = []

    def monotonic(self) -> float:
        return self.now

    async def receive(self) -> Message:
        await asyncio.sleep(0)
        self.now += 1
        part = min(self.left, self.pace)
        self.left -= part
        return {"type": "http.request", "body": b"x" * part, "more_body": self.left > 0}

    async def send(self, message: Message) -> None:
        self.answers.append(message)

    async def upload(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """Send the body to an application that reads it. Returns the status of the answer."""
        monkeypatch.setattr(body_limit, "time", self)
        headers = [(b"content-length", str(self.left).encode())]
        scope = {"type": "http", "method": "POST", "path": ATTACHMENTS, "headers": headers}
        await body_limit.BodyLimit(_read_and_answer)(scope, self.receive, self.send)
        status: int = self.answers[0]["status"]
        return status


async def _read_and_answer(_scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(("kilobytes", "status"), [(64, 201), (9, 201), (7, 408)])
async def test_25_megabytes_need_8_kilobytes_a_second(
    kilobytes: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await SlowClient(25 * MEGABYTE, kilobytes * 1024).upload(monkeypatch) == status


async def test_a_fast_beginning_does_not_allow_a_later_pause(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "PATIENCE_SECONDS", 0.3)
    async with sending(service, f"POST {REGISTER}") as (reader, writer):
        writer.write(b"Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n" + b" " * 999_999)
        assert b" 408 " in await reader.readline()


async def test_a_slow_answer_is_not_taken_for_a_slow_body(anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "PATIENCE_SECONDS", 0)
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{anna.base}/healthz")).status_code == 200
    assert (await anna.http.get("/api/v1/users/me")).status_code == 200


async def test_the_connection_is_closed_after_an_answer_before_the_end_of_the_body(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_limit, "PATIENCE_SECONDS", 0.3)
    async with sending(service, "PUT /api/v1/users/me/avatar") as (reader, writer):
        writer.write(b"Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{")
        assert b" 401 " in (await reader.read()).splitlines()[0]
