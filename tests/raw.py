"""Hand-written WebSocket, Engine.IO and Socket.IO clients, which can send what no client library would."""

import asyncio
import json
import socket
import struct
from contextlib import suppress
from itertools import count
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect

from tests.clients import DEADLINE

PING, PONG = "2", "3"
PATH = "/socket.io/?EIO=4&transport=websocket"
TEXT, CLOSE = 0x81, 0x88


def frame(payload: bytes, first: int = TEXT) -> bytes:
    """A frame as clients send it, masked with zeros. `first` is its first byte."""
    length = len(payload)
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 2**16:
        head = bytes((first, 0xFE)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + length.to_bytes(8, "big")
    return head + bytes(4) + payload


class RawStream:
    """A WebSocket on a plain TCP connection, for frames that no library would send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(
        cls, base: str, then: bytes = b"", *, path: str = PATH, header: str = "X: x", answer: bytes = b"HTTP/1.1 101"
    ) -> Self:
        """Request the upgrade, send `then`, and wait for an answer that begins with `answer`."""
        address = urlsplit(base)
        stream = cls(*await asyncio.open_connection(address.hostname, address.port))
        stream.writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: Y2hhdCBsb2FkIHRlc3QgIQ==\r\n{header}\r\n\r\n".encode()
        )
        await asyncio.sleep(0)
        stream.writer.write(then)
        async with asyncio.timeout(DEADLINE):
            assert (await stream.reader.readuntil(b"\r\n\r\n")).startswith(answer)
        return stream

    @classmethod
    async def connected(cls, base: str, token: str) -> Self:
        """Open and connect to the default namespace."""
        stream = await cls.open(base)
        stream.writer.write(frame(b'40{"token":"%b"}' % token.encode()))
        async with asyncio.timeout(DEADLINE):
            while not (await stream.read())[1].startswith(b'42["ready"'):
                pass
        return stream

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reset()

    async def read(self) -> tuple[int, bytes]:
        """Return the first byte and the payload of the next frame. Raises IncompleteReadError, OSError."""
        first, length = await self.reader.readexactly(2)
        if length > 125:
            length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8), "big")
        return first, await self.reader.readexactly(length)

    async def close_code(self) -> int | None:
        """Return the code with which the server closes, None if it ends the connection without one."""
        try:
            while (received := await self.read())[0] != CLOSE:
                pass
        except (asyncio.IncompleteReadError, OSError):
            return None
        return int.from_bytes(received[1][:2], "big")

    async def reset(self) -> None:
        """End the connection with a reset."""
        option = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        self.writer.transport.abort()
        with suppress(OSError):
            await self.writer.wait_closed()


class RawSocket:
    """One connection. Packets that arrive while it waits for an ack are kept in `received`."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.received: list[str] = []
        self.numbers = count(1)

    @classmethod
    async def open(cls, base: str, path: str = PATH, **headers: str) -> Self:
        """Open the transport only, without the handshake of Socket.IO."""
        options: Any = {"compression": None, "proxy": None, "max_size": None, "additional_headers": headers}
        raw = cls(await connect(base.replace("http", "ws", 1) + path, **options))
        assert (await raw.receive()).startswith("0{")
        return raw

    @classmethod
    async def connected(cls, base: str, token: str) -> Self:
        """Open and connect to the default namespace."""
        raw = await cls.open(base)
        assert (await raw.join({"token": token})).startswith("40{")
        assert (await raw.receive()).startswith('42["ready"')
        return raw

    async def join(self, auth: Any) -> str:
        """Connect to the default namespace. Returns the packet that answers."""
        await self.send(f"40{json.dumps(auth)}")
        return await self.receive()

    async def send(self, *packets: str | bytes) -> None:
        for packet in packets:
            await self.socket.send(packet)

    async def receive(self) -> str:
        """The next packet. Raises websockets' ConnectionClosed."""
        async with asyncio.timeout(DEADLINE):
            while (packet := str(await self.socket.recv())) == PING:
                await self.socket.send(PONG)
        return packet

    async def call(self, name: str, argument: str = "{}") -> dict[str, Any]:
        """Send one command with its argument as JSON text. Returns the ack."""
        return await self.ack(f"[{json.dumps(name)},{argument}]")

    async def ack(self, content: str) -> dict[str, Any]:
        """Send an event with this content, as JSON text. Returns the ack."""
        number = next(self.numbers)
        await self.send(f"42{number}{content}")
        return await self.answer_to(number)

    async def answer_to(self, number: int) -> dict[str, Any]:
        """Return the ack of this number."""
        start = f"43{number}["
        while not (packet := await self.receive()).startswith(start):
            self.received.append(packet)
        (answer,) = json.loads(packet[len(start) - 1 :])
        found: dict[str, Any] = answer
        return found

    async def close(self) -> None:
        await self.socket.close()
