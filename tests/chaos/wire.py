"""How the clients of a run speak: Socket.IO over WebSocket and HTTP by hand, cheap enough for many on one core."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import orjson

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
# Of one client to one node.
HTTP_CONNECTIONS = 4
UPGRADE = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: Y2hhdCBsb2FkIHRlc3QgIQ==\r\n\r\n"
)
PING, PONG = b"2", b"3"


class ConnectionEnded(Exception):
    """Before an answer came: nobody knows what became of the request."""


class Refusal(Exception):
    """A connect that was refused, with its problem."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(str(problem))
        self.problem = problem


def frame(payload: bytes) -> bytes:
    """A client's text frame; the mask is zero, which leaves the payload as it is."""
    length = len(payload)
    if length < 126:
        head = bytes((0x81, 0x80 | length))
    elif length < 1 << 16:
        head = b"\x81\xfe" + length.to_bytes(2, "big")
    else:
        head = b"\x81\xff" + length.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


class Socket(asyncio.Protocol):
    """One connection. `on_event` gets each event as it comes, `on_close` is called once."""

    def __init__(self, on_event: Callable[[str, Any], None], on_close: Callable[[str], None]) -> None:
        self.on_event, self.on_close = on_event, on_close
        self.transport: asyncio.Transport
        self.is_open = False
        self._kept = b""
        self._is_upgraded = False
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._auth = b""

    async def connect(self, port: int, auth: dict[str, Any]) -> None:
        """Return when the connect is accepted. Raises Refusal, ConnectionEnded, TimeoutError, OSError."""
        self._auth = b"40" + orjson.dumps(auth)
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
            try:
                await self._opened
            except BaseException:
                self.transport.abort()
                raise

    async def call(self, command: str, argument: Any) -> dict[str, Any]:
        """One command and its ack. Raises ConnectionEnded, TimeoutError."""
        if not self.is_open:
            raise ConnectionEnded
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._write(b"42%d%b" % (number, orjson.dumps([command, argument])))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found: dict[str, Any] = await answer
                return found
        finally:
            self._answers.pop(number, None)

    def close(self) -> None:
        self.transport.close()

    def _write(self, packet: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(frame(packet))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of uvloop, or asyncio's
        transport.write(UPGRADE)

    def connection_lost(self, exc: Exception | None) -> None:
        for answer in [self._opened, *self._answers.values()]:
            if not answer.done():
                answer.set_exception(ConnectionEnded())
        if not self._opened.cancelled():
            # Nobody waits for a connect that was given up.
            self._opened.exception()
        if self.is_open:
            self.is_open = False
            self.on_close("closed" if exc is None else type(exc).__name__)

    def data_received(self, data: bytes) -> None:
        data, at = self._kept + data, 0
        if not self._is_upgraded:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._kept = data
                return
            self._is_upgraded, at = True, end + 4
            if not data.startswith(b"HTTP/1.1 101"):
                self.transport.abort()
                return
        size = len(data)
        while size - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if start + length > size or start > size:
                break
            opcode, at = data[at] & 0x0F, start + length
            if opcode == 8:
                self.transport.close()
            elif opcode == 1:
                self._packet(data[start:at])
        self._kept = data[at:]

    def _packet(self, packet: bytes) -> None:
        if packet == PING:
            self._write(PONG)
        elif packet.startswith(b"42"):
            name, *arguments = orjson.loads(packet[2:])
            self.on_event(name, arguments[0] if arguments else {})
        elif packet.startswith(b"43"):
            number, _, answer = packet[2:].partition(b"[")
            waiting = self._answers.get(int(number))
            if waiting and not waiting.done():
                waiting.set_result(orjson.loads(b"[" + answer)[0])
        elif packet.startswith(b"0{"):
            self._write(self._auth)
        elif packet.startswith(b"40"):
            self.is_open = True
            if not self._opened.done():
                self._opened.set_result(None)
        elif packet.startswith(b"44") and not self._opened.done():
            self._opened.set_exception(Refusal(orjson.loads(packet[2:]).get("data") or {}))


class Http:
    """Requests to one port over a connection that is kept."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter
        self._lock = asyncio.Lock()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "application/json",
        token: str | None = None,
    ) -> tuple[int, bytes]:
        """Status and body. Raises ConnectionEnded, TimeoutError, OSError: the outcome is unknown."""
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        head = (
            f"{method.upper()} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{authorization}"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with self._lock, asyncio.timeout(ANSWER_SECONDS):
            try:
                if self._reader is not None and self._reader.at_eof():
                    self.close()  # the server has ended an idle connection
                if self._reader is None:
                    self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
                self._writer.write(head.encode() + body)
                return await self._answer(self._reader)
            except BaseException:
                self.close()
                raise

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            headers = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
            body = await reader.readexactly(int(headers.get(b"content-length", 0)))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ConnectionEnded from error
        if headers.get(b"connection") == b"close":
            self.close()
        return int(lines[0].split(b" ")[1]), body

    def close(self) -> None:
        if self._reader is not None:
            self._writer.transport.abort()
            self._reader = None


class HttpPool:
    """A few kept connections to one port."""

    def __init__(self, port: int) -> None:
        self._all = [Http(port) for _ in range(HTTP_CONNECTIONS)]
        # The last one used is taken first, so that a client that asks one at a time keeps one connection.
        self._free: asyncio.LifoQueue[Http] = asyncio.LifoQueue()
        for http in self._all:
            self._free.put_nowait(http)

    @asynccontextmanager
    async def free(self) -> AsyncIterator[Http]:
        """A connection for one request, once there is a free one."""
        http = await self._free.get()
        try:
            yield http
        finally:
            self._free.put_nowait(http)

    def close(self) -> None:
        for http in self._all:
            http.close()
