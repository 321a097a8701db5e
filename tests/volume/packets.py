"""Malformed packets over many connections: the process lives, reports no crash, and keeps nothing of them."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import httpx
import orjson

from tests.chaos.nodes import Node
from tests.raw import RawStream, frame
from tests.volume.malformed import Malformed
from tests.volume.servers import Login, Servers, Usage, check_nothing_left

CONNECTIONS = 8
# One connection sends so many, by whether it is logged in: beyond 2,000 frames in a second, or 100, it would be cut.
BATCH = {True: 400, False: 80}
POSTS = 20
SHARE_POLLING = 0.1
# Of the transports that poll; it takes most of a minute until these are forgotten, too long for a short run.
SHARE_LEFT, LEAST_TO_LEAVE = 0.2, 10_000
END_SECONDS = 60.0
# A transport that polled and was left is forgotten after two intervals of pings.
FORGET_SECONDS = 90.0
MOST_BYTES = 64 << 20
WARM_UP = 4000
POLLING = "/socket.io/?EIO=4&transport=polling"
# Answered after whatever came before it, also where a packet has disconnected the session.
NUMBER = b"424242424242"
PROBE, ANSWER = frame(b'42%b["list_chats",{"limit":0}]' % NUMBER), b"43%b[" % NUMBER


@dataclass
class Attack:
    """`read`: packets that the server is known to have read; of one that ends a connection, nothing after it counts."""

    servers: Servers
    node: Node
    malformed: Malformed
    logins: list[Login]
    wanted: int
    share_left: float
    read: int = 0
    connections: int = 0
    ended_early: int = 0
    requests: int = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._connect_again() for _ in range(CONNECTIONS)))

    async def _connect_again(self) -> None:
        random = self.malformed.random
        while self.read < self.wanted:
            try:
                if random.random() < SHARE_POLLING:
                    await self._poll()
                else:
                    await self._stream(is_logged_in=random.random() < 0.7)
            except (OSError, AssertionError, asyncio.IncompleteReadError, httpx.TransportError) as error:
                self.servers.violations.append(f"a connection ended with {type(error).__name__} {error}")
                return

    async def _stream(self, *, is_logged_in: bool) -> None:
        random, base = self.malformed.random, f"http://127.0.0.1:{self.node.port}"
        token = random.choice(self.logins).token
        stream = await (RawStream.connected(base, token) if is_logged_in else RawStream.open(base))
        self.connections += 1
        try:
            packets = b"".join(self.malformed.frame() for _ in range(BATCH[is_logged_in]))
            stream.writer.write(packets + frame(b'40{"token":"%b"}' % token.encode()) + PROBE)
            async with asyncio.timeout(END_SECONDS):
                is_answered = await self._read_answer(stream.reader)
                # uvloop raises RuntimeError where the server has closed.
                with suppress(OSError, RuntimeError):
                    stream.writer.write(self.malformed.last())
                    stream.writer.write_eof()
                    await stream.reader.read()
        finally:
            stream.writer.transport.abort()
        self.read += BATCH[is_logged_in] + 1 if is_answered else 1
        self.ended_early += not is_answered

    async def _read_answer(self, reader: asyncio.StreamReader) -> bool:
        """Whether the probe is answered before the connection ends."""
        came = b""
        with suppress(ConnectionError):
            while more := await reader.read(1 << 16):
                came = came[-len(ANSWER) :] + more
                if ANSWER in came:
                    return True
        return False

    async def _poll(self) -> None:
        random = self.malformed.random
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.node.port}", verify=False, timeout=60) as http:
            sid = orjson.loads((await http.get(POLLING)).text[1:])["sid"]
            url = f"{POLLING}&sid={sid}"
            if random.random() < 0.5:
                await http.post(url, content=f'40{{"token":"{random.choice(self.logins).token}"}}')
            for _ in range(POSTS):
                if not await self._post(http, url, self.malformed.posted()):
                    break
            if random.random() >= self.share_left:
                await http.post(url, content="1")

    async def _post(self, http: httpx.AsyncClient, url: str, body: bytes) -> bool:
        """Whether the transport goes on."""
        answer = await http.post(url, content=body, headers={"Content-Type": "text/plain"})
        self.requests += 1
        self.read += body.count(b"\x1e") + 1 if answer.is_success else 1
        if answer.status_code >= 500 and answer.status_code != 503:
            self.servers.violations.append(f"P25 {answer.status_code} for {body[:200]!r}")
        return answer.is_success


async def run(servers: Servers, count: int, random: Random) -> str:
    """Some packets first, so that what the service keeps for good is there before. Returns the figures."""
    node, malformed = servers.nodes[0], Malformed(random)
    logins = [await servers.log_in() for _ in range(5)]
    idle = await Usage.of(servers, node)
    share_left = SHARE_LEFT if count >= LEAST_TO_LEAVE else 0.0
    await Attack(servers, node, malformed, logins, min(WARM_UP, count), share_left).run()
    before = await Usage.of(servers, node)
    attack = Attack(servers, node, malformed, logins, count, share_left)
    await attack.run()
    # Memory is compared with what it was under load, all else with nothing.
    idle.memory = before.memory
    after = await check_nothing_left(servers, node, idle, most_bytes=MOST_BYTES, seconds=FORGET_SECONDS)
    return (
        f"{attack.read} packets read, {attack.connections} connections, {attack.ended_early} ended by a packet, "
        f"{attack.requests} requests of polling, memory {before.memory >> 20} then {after.memory >> 20} MiB"
    )
