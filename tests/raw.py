"""A WebSocket that speaks Engine.IO and Socket.IO by hand, so that it can say what no client library would."""

import asyncio
import json
from itertools import count
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect

from tests.clients import DEADLINE

PING, PONG = "2", "3"


class RawSocket:
    """One connection. What arrives while it waits for an ack is kept in `heard`."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[str] = []
        self.numbers = count(1)

    @classmethod
    async def open(cls, base: str, path: str = "/socket.io/?EIO=4&transport=websocket") -> Self:
        """Open the transport only: the handshake of Socket.IO is still to come."""
        raw = cls(await connect(base.replace("http", "ws", 1) + path, compression=None, proxy=None, max_size=None))
        assert (await raw.hear()).startswith("0{")
        return raw

    @classmethod
    async def connected(cls, base: str, token: str) -> Self:
        """Open, and connect to the default namespace."""
        raw = await cls.open(base)
        assert (await raw.join({"token": token})).startswith("40{")
        assert (await raw.hear()).startswith('42["ready"')
        return raw

    async def join(self, auth: Any) -> str:
        """Ask for the default namespace; the packet that answers."""
        await self.say(f"40{json.dumps(auth)}")
        return await self.hear()

    async def say(self, *packets: str | bytes) -> None:
        for packet in packets:
            await self.socket.send(packet)

    async def hear(self) -> str:
        """The next packet. Raises websockets' ConnectionClosed."""
        async with asyncio.timeout(DEADLINE):
            while (packet := str(await self.socket.recv())) == PING:
                await self.socket.send(PONG)
        return packet

    async def call(self, name: str, argument: str = "{}") -> dict[str, Any]:
        """One command, its argument as JSON text; the ack."""
        return await self.ack(f"[{json.dumps(name)},{argument}]")

    async def ack(self, content: str) -> dict[str, Any]:
        """An event with this content, as JSON text; the ack."""
        number = next(self.numbers)
        await self.say(f"42{number}{content}")
        return await self.answer_to(number)

    async def answer_to(self, number: int) -> dict[str, Any]:
        """The ack of this number."""
        start = f"43{number}["
        while not (packet := await self.hear()).startswith(start):
            self.heard.append(packet)
        (answer,) = json.loads(packet[len(start) - 1 :])
        found: dict[str, Any] = answer
        return found

    async def close(self) -> None:
        await self.socket.close()
