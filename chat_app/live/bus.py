"""The other nodes: every commit is published once, numbered, so that whoever hears a gap knows of a loss.

A hint only: nothing waits for it. What it says of permissions is as old as what it carries.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, Protocol
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from uuid_utils.compat import uuid7

from chat_app import metrics
from chat_app.background import run_together
from chat_app.events import Recorded
from chat_app.live.bus_messages import Message, Online, encode
from chat_app.logs import log, log_crash

CHANNEL = "chat:events"
HEARTBEAT_SECONDS = 1.0
# Nodes that say nothing for so long are cut off, or gone.
SILENT_SECONDS = 3.0
FORGOTTEN_SECONDS = 600.0
TIMEOUT_SECONDS = 1.5
RETRY_SECONDS = 0.5
# Commits that wait for the bus; what is more is dropped, and the others learn it from the numbers.
MOST_WAITING = 5000


class _Waiting(NamedTuple):
    number: int
    since: int
    events: Sequence[Recorded] = ()
    online: Online | None = None
    is_leaving: bool = False


class _Node:
    """What is known of another node."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.received_at = time.monotonic()
        self.is_silent = False


class Listener(Protocol):
    """Who is told what comes over the bus."""

    def heard(self, events: list[Recorded]) -> None:
        """Another node committed this."""

    def joined(self) -> None:
        """From now on the others are heard."""

    def missed(self) -> None:
        """Something that another node told may have been missed."""

    def online(self, node: UUID, online: Online) -> None:
        """Somebody came to another node, or went."""

    def present(self, node: UUID, is_there: bool) -> None:
        """A node has fallen silent or left, or is back."""


def connect(url: str) -> "Redis":
    """A client that gives up soon and does not try again by itself."""
    plain = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
    return Redis.from_url(
        plain,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        protocol=2,
    )


class Bus:
    """This node among the others."""

    def __init__(self, url: str) -> None:
        self.node: UUID = uuid7()
        self.is_up = False
        # Set while something that other nodes commit may not come: the bus is lost, or one of them is silent.
        self.is_incomplete = asyncio.Event()
        self.is_incomplete.set()
        self._own = b'{"node":"%b"' % str(self.node).encode()
        self.client = connect(url)
        self._listener: Listener
        self._number = 0
        self._waiting: deque[_Waiting] = deque()
        self._queued, self._written, self._joined = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._nodes: dict[UUID, _Node] = {}
        self._others_known = False
        self._is_lost = False

    def publish(
        self, events: Sequence[Recorded] = (), online: Online | None = None, *, is_leaving: bool = False
    ) -> None:
        """Publish soon, or not at all: what was not published leaves a gap in the numbers."""
        since, self._number = self._number, self._number + bool(events)
        if self.is_up and len(self._waiting) < MOST_WAITING:
            self._waiting.append(_Waiting(self._number, since, events, online, is_leaving))
            self._queued.set()

    async def run(self, listener: Listener) -> None:
        """Keep up the connection to the bus until cancelled."""
        self._listener = listener
        while True:
            try:
                async with self._subscribed() as subscription:
                    await run_together(self._write(), self._read(subscription), self._watch())
            except (RedisError, OSError) as error:
                self._lose(error)
            except Exception as error:
                log_crash(error)
                self._lose(error)
            await asyncio.sleep(RETRY_SECONDS)

    async def start(self) -> None:
        """Return when every node that lives has been heard: whoever is heard first after this, something was missed of.
        Without a bus, after a while."""
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                await self._joined.wait()
                await asyncio.sleep(HEARTBEAT_SECONDS * 1.2)
        except TimeoutError:
            log.warning("started without the bus")
        self._others_known = True

    async def leave(self) -> None:
        """Say what is still to be said, and that this node ends in order."""
        self.publish(is_leaving=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                while self._waiting:
                    self._written.clear()
                    await self._written.wait()

    @asynccontextmanager
    async def _subscribed(self) -> AsyncIterator[PubSub]:
        subscription = self.client.pubsub()
        try:
            async with asyncio.timeout(2 * TIMEOUT_SECONDS):
                await subscription.subscribe(CHANNEL)
                if await subscription.get_message(timeout=TIMEOUT_SECONDS) is None:
                    raise TimeoutError("no answer to SUBSCRIBE")
            self._join()
            yield subscription
        finally:
            self.is_up = False
            self._judge()
            self._waiting.clear()
            with suppress(TimeoutError):  # a frozen bus takes no goodbye
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await subscription.aclose()  # type: ignore[no-untyped-call]  # the library is not typed here
                    await self.client.connection_pool.disconnect()

    def _join(self) -> None:
        now = time.monotonic()
        for node in self._nodes.values():
            node.received_at = now
        self.is_up, self._is_lost = True, False
        self._joined.set()
        self._judge()
        log.info("bus joined")
        self._listener.joined()

    def _lose(self, error: Exception) -> None:
        if not self._is_lost:
            log.warning("bus lost", error=type(error).__name__, address="CHAT_BUS_URL")
        self._is_lost = True

    def _judge(self) -> None:
        metrics.bus_up.set(self.is_up)
        if self.is_up and not any(node.is_silent for node in self._nodes.values()):
            self.is_incomplete.clear()
        else:
            self.is_incomplete.set()

    async def _write(self) -> None:
        while True:
            with suppress(TimeoutError):  # there is nothing to tell but that this node lives
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._queued.wait()
            self._queued.clear()
            count = len(self._waiting)
            packets = [self._packet(self._waiting[place]) for place in range(count)]
            sending = self.client.pipeline(transaction=False)
            for packet in packets or [self._packet(_Waiting(self._number, self._number))]:
                sending.publish(CHANNEL, packet)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await sending.execute()
            for _ in range(count):
                self._waiting.popleft()
            self._written.set()

    def _packet(self, waiting: _Waiting) -> bytes:
        try:
            return encode(self.node, **waiting._asdict())
        except TypeError as error:
            log_crash(error)
            # Not to be understood: the number is missing.
            return b""

    async def _read(self, subscription: PubSub) -> None:
        while True:
            # One's own heartbeats come back, so silence is a loss.
            message = await subscription.get_message(timeout=HEARTBEAT_SECONDS + TIMEOUT_SECONDS)
            if message is None:
                raise TimeoutError("nothing was heard")
            if message["type"] == "message":
                self._receive(message["data"])

    def _receive(self, packet: bytes) -> None:
        # Half of what comes is one's own, and reading it would cost as much as the rest.
        if packet.startswith(self._own):
            return
        try:
            message = Message.model_validate_json(packet)
            events = message.recorded()
        except Exception as error:
            # If it was a node's, its next number tells that something was missed.
            log.warning("bus message not understood", error=type(error).__name__)
            return
        try:
            if message.node != self.node:
                self._hear(message, events)
        except Exception as error:
            log_crash(error)
            self._listener.missed()

    def _hear(self, message: Message, events: list[Recorded]) -> None:
        known = self._nodes.get(message.node)
        before = known.number if known else 0 if self._others_known else message.since
        returned = known is None or known.is_silent
        # What a frozen bus was given may come after what was said over the next connection.
        self._nodes[message.node] = _Node(max(message.number, before))
        if returned:
            self._judge()
            self._listener.present(message.node, is_there=True)
        if before < message.since:
            log.warning("missed on the bus", node=str(message.node), messages=message.since - before)
            self._listener.missed()
        if events:
            self._listener.heard(events)
        if message.online:
            self._listener.online(message.node, message.online)
        if message.is_leaving:
            del self._nodes[message.node]
            self._listener.present(message.node, is_there=False)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS / 2)
            now = time.monotonic()
            for id, node in list(self._nodes.items()):
                if now - node.received_at > FORGOTTEN_SECONDS:
                    del self._nodes[id]
                elif now - node.received_at > SILENT_SECONDS and not node.is_silent:
                    node.is_silent = True
                    log.warning("node silent", node=str(id))
                    # It may have committed what it never told.
                    self._listener.missed()
                    self._listener.present(id, is_there=False)
            self._judge()
