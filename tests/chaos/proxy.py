"""The network between clients, nodes, database and bus, a process of its own: links that can be cut, frozen, delayed.

`Network` starts the process and speaks to it; each command is a line of JSON on its input, answered by a line.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from typing import Any, Self

from tests.process import ROOT

# How exact the timers of the loop are.
CLOCK_SECONDS = 0.005


class Link:
    """One listening port that leads to another."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_cut = self.is_frozen = False
        self.delay = 0.0
        self.ends: set[End] = set()

    async def listen(self) -> int:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: End(self, None), "127.0.0.1", 0, backlog=512)
        listening: int = self.server.sockets[0].getsockname()[1]
        return listening

    def set(self, state: str, delay: float = 0.0) -> None:
        """`open`, `cut` (connections are reset, new ones too) or `frozen` (nothing passes, and nothing is lost)."""
        was_frozen = self.is_frozen
        self.is_cut, self.is_frozen, self.delay = state == "cut", state == "frozen", delay
        for end in list(self.ends):
            if self.is_cut:
                end.transport.abort()
            elif self.is_frozen:
                end.pause()
            elif was_frozen:
                end.resume()


class End(asyncio.Protocol):
    """One side of a connection: what arrives here leaves at the other side."""

    def __init__(self, link: Link, other: "End | None") -> None:
        self.link, self.other = link, other
        self.transport: asyncio.Transport
        self.waiting: list[bytes] = []
        # What is delayed, with its time; what follows waits behind it.
        self.delayed: deque[tuple[float, bytes]] = deque()
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.is_open = transport, True  # type: ignore[assignment]  # of uvloop, or asyncio's
        if self.link.is_cut:
            transport.abort()
            return
        self.link.ends.add(self)
        if self.link.is_frozen:
            self.pause()
        if self.other is None:
            asyncio.get_running_loop().create_task(self._reach())
        else:
            self.other.other = self
            self.other.flush()

    async def _reach(self) -> None:
        while self.link.is_frozen:  # noqa: ASYNC110  # a command of the run ends it
            await asyncio.sleep(0.05)
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: End(self.link, self), "127.0.0.1", self.link.port)
        except OSError:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self.link.delay and not self.delayed:
            self.carry(data)
            return
        loop = asyncio.get_running_loop()
        self.delayed.append((loop.time() + self.link.delay, data))
        loop.call_later(self.link.delay, self.carry_delayed)

    def carry_delayed(self) -> None:
        # What came later with a shorter delay does not overtake.
        now = asyncio.get_running_loop().time() + CLOCK_SECONDS
        while self.delayed and self.delayed[0][0] <= now:
            self.carry(self.delayed.popleft()[1])

    def carry(self, data: bytes) -> None:
        if self.other is None or self.link.is_frozen:
            self.waiting.append(data)
        else:
            self.flush()
            self.other.write(data)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def flush(self) -> None:
        """Pass on what came before the other side was there, or while the link was frozen."""
        if self.other and not self.link.is_frozen:
            waiting, self.waiting = self.waiting, []
            for data in waiting:
                self.other.write(data)

    def pause(self) -> None:
        if self.is_open and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        self.flush()
        if self.is_open and not self.transport.is_closing():
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        if self.other:
            self.other.pause()

    def resume_writing(self) -> None:
        if self.other and not self.link.is_frozen:
            self.other.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self.link.ends.discard(self)
        if self.delayed and not exc:
            asyncio.get_running_loop().call_later(self.link.delay + CLOCK_SECONDS, self._close_other)
        elif self.other:
            self.flush()
            self.other.transport.abort() if exc else self.other.transport.close()

    def _close_other(self) -> None:
        while self.delayed:
            self.carry(self.delayed.popleft()[1])
        if self.other:
            self.other.transport.close()


class Network:
    """The process with the links, by name."""

    process: Process

    async def __aenter__(self) -> Self:
        command = (sys.executable, "-m", "tests.chaos.proxy")
        self.process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)
        self._lock = asyncio.Lock()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def link(self, name: str, port: int) -> int:
        """A port that leads to another."""
        return int(await self._do(link=name, port=port))

    async def set(self, name: str, state: str, delay: float = 0.0) -> None:
        await self._do(set=name, state=state, delay=delay)

    async def _do(self, **command: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        async with self._lock:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            return json.loads(await self.process.stdout.readline())


async def _serve() -> None:
    links: dict[str, Link] = {}
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        answer = 0
        if "link" in command:
            link = links[command["link"]] = Link(command["port"])
            answer = await link.listen()
        else:
            links[command["set"]].set(command["state"], command["delay"])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
