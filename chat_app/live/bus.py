"""The other nodes: every commit is published once, with a number, so that a gap shows what was missed.

A hint only: nothing waits for it. The permissions in it are as old as the event that it carries.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from uuid_utils.compat import uuid7

from chat_app import logs, metrics, tracing
from chat_app.background import run_together
from chat_app.events import Recorded
from chat_app.live.bus_messages import Message, Online, decode, encode
from chat_app.logs import log, log_crash

CHANNEL = "chat:events:2"
HEARTBEAT_SECONDS = 1.0
# A node that publishes nothing for so long is cut off, or gone.
SILENT_SECONDS = 3.0
FORGOTTEN_SECONDS = 600.0
TIMEOUT_SECONDS = 1.5
RETRY_SECONDS = 0.5
# Packets that wait for the bus. More are dropped, and the numbers show it to the other nodes.
MOST_WAITING = 5000


@dataclass(slots=True)
class _Node:
    """What is known of another node."""

    number: int
    received_at: float = field(default_factory=time.monotonic)
    is_silent: bool = False


class Listener(Protocol):
    """What the bus calls."""

    def received(self, message: Message, events: list[Recorded]) -> None:
        """Another node published this."""

    def joined(self) -> None:
        """From now on messages of other nodes are received."""

    def missed(self) -> None:
        """Some message of another node may have been missed."""

    def present(self, node: UUID, is_there: bool) -> None:
        """A node has fallen silent or left, or is back."""


def connect(url: str) -> "Redis":
    """A client that gives up soon and does not try again by itself."""
    return Redis.from_url(
        re.sub("^valkey", "redis", url),
        retry=Retry(NoBackoff(), 0),
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        protocol=2,
    )


class Bus:
    """This node among the others."""

    def __init__(self, url: str) -> None:
        self.node: UUID = uuid7()
        self.client = connect(url)
        self.is_up = False
        self._own = b'{"node":"%b"' % str(self.node).encode()
        self._listener: Listener
        self._number = 0
        self.waiting: asyncio.Queue[bytes] = asyncio.Queue()
        self._joined = asyncio.Event()
        self._nodes: dict[UUID, _Node] = {}
        self._others_known = False
        self._is_lost = False

    @property
    def is_complete(self) -> bool:
        """Whether everything arrives that other nodes commit."""
        return self.is_up and not any(node.is_silent for node in self._nodes.values())

    def publish(
        self, events: Sequence[Recorded] = (), *, online: Online | None = None, is_leaving: bool = False
    ) -> None:
        """Publish soon, or not at all: what was not published leaves a gap in the numbers."""
        since, self._number = self._number, self._number + bool(events)
        is_dropped = not self.is_up or self.waiting.qsize() >= MOST_WAITING
        if events:
            logs.log_info("not published" if is_dropped else "published", bus_up=self.is_up, number=self._number)
        if is_dropped:
            metrics.bus_dropped.labels("full" if self.is_up else "down").inc()
        else:
            presence = online and online.model_dump(mode="json")
            fields = {"requests": logs.request_ids(), "online": presence, "is_leaving": is_leaving, **tracing.headers()}
            self.waiting.put_nowait(encode(self.node, self._number, since, events, published_at=time.time(), **fields))

    async def run(self, listener: Listener) -> None:
        """Keep up the connection to the bus until cancelled."""
        self._listener = listener
        while True:
            subscription = self.client.pubsub()
            try:
                try:
                    await self._join(subscription)
                    await run_together(self._write(), self._read(subscription))
                finally:
                    await self._close(subscription)
            except Exception as error:
                self._lose(error)
            await asyncio.sleep(RETRY_SECONDS)

    async def start(self) -> None:
        """Wait until every live node has published a heartbeat; without a bus, for a while.

        A node that is received for the first time later has published something that was missed.
        """
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                await self._joined.wait()
                await asyncio.sleep(HEARTBEAT_SECONDS * 1.2)
        except TimeoutError:
            log.warning("started without the bus")
        self._others_known = True

    async def leave(self) -> None:
        """Publish what is still waiting, and that this node ends in order."""
        self.publish(is_leaving=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await self.waiting.join()

    async def _join(self, subscription: PubSub) -> None:
        async with asyncio.timeout(2 * TIMEOUT_SECONDS):
            await subscription.subscribe(CHANNEL)
            if await subscription.get_message(timeout=TIMEOUT_SECONDS) is None:
                raise TimeoutError("no answer to SUBSCRIBE")
        now = time.monotonic()
        for node in self._nodes.values():
            node.received_at = now
        self.is_up, self._is_lost = True, False
        metrics.bus_up.set(True)
        self._joined.set()
        log.info("bus joined")
        self._listener.joined()

    def _lose(self, error: Exception) -> None:
        if not isinstance(error, RedisError | OSError):
            log_crash(error)
        if not self._is_lost:
            log.warning("bus lost", error=type(error).__name__, address="CHAT_BUS_URL")
        self._is_lost = True

    async def _close(self, subscription: PubSub) -> None:
        self.is_up = False
        metrics.bus_up.set(False)
        metrics.bus_dropped.labels("down").inc(self.waiting.qsize())
        self.waiting = asyncio.Queue()
        with suppress(TimeoutError):  # a frozen bus does not answer
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await subscription.aclose()  # type: ignore[no-untyped-call]  # the library is not typed here
                await self.client.connection_pool.disconnect()

    async def _write(self) -> None:
        while True:
            packets: list[bytes] = []
            with suppress(TimeoutError):  # there is nothing to publish but that this node lives
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    packets.append(await self.waiting.get())
            while not self.waiting.empty():
                packets.append(self.waiting.get_nowait())
            sending = self.client.pipeline(transaction=False)
            for packet in packets or [encode(self.node, self._number, self._number)]:
                sending.publish(CHANNEL, packet)
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await sending.execute()
            for _ in packets:
                self.waiting.task_done()
            self._check_silence()

    async def _read(self, subscription: PubSub) -> None:
        while True:
            # One's own heartbeats come back, so silence is a loss.
            message = await subscription.get_message(timeout=HEARTBEAT_SECONDS + TIMEOUT_SECONDS)
            if message is None:
                raise TimeoutError("nothing was received")
            if message["type"] == "message":
                # In a context of its own, so that the log context is that of one message.
                copy_context().run(self._receive, message["data"])

    def _receive(self, packet: bytes) -> None:
        # Half of what comes is one's own, and reading it would cost as much as the rest.
        if packet.startswith(self._own):
            return
        try:
            message, events = decode(packet)
        except Exception as error:
            # If a node published it, the next number of that node shows that something was missed.
            log.warning("bus message not understood", error=type(error).__name__)
            return
        try:
            self._take(message, events)
        except Exception as error:
            log_crash(error)
            self._listener.missed()

    def _take(self, message: Message, events: list[Recorded]) -> None:
        logs.bind_request(node=message.node, requests=message.requests)
        known = self._nodes.get(message.node)
        before = known.number if known else 0 if self._others_known else message.since
        # A bus that was frozen may send an old message after one that was published over the next connection.
        self._nodes[message.node] = _Node(max(message.number, before))
        if known is None or known.is_silent:
            self._listener.present(message.node, is_there=True)
        if before < message.since:
            log.warning("missed on the bus", messages=message.since - before)
            metrics.bus_missed.inc(message.since - before)
            self._listener.missed()
        self._listener.received(message, events)
        if message.is_leaving:
            del self._nodes[message.node]
            self._listener.present(message.node, is_there=False)

    def _check_silence(self) -> None:
        now = time.monotonic()
        for id, node in list(self._nodes.items()):
            if now - node.received_at > FORGOTTEN_SECONDS:
                del self._nodes[id]
            elif now - node.received_at > SILENT_SECONDS and not node.is_silent:
                node.is_silent = True
                log.warning("node silent", node=str(id))
                # It may have committed something without publishing it.
                self._listener.missed()
                self._listener.present(id, is_there=False)
