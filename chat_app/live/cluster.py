"""Keeps the connections of this node in step with the other nodes, over the bus, or without it from the database."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from chat_app import metrics
from chat_app.background import Background
from chat_app.crud.access import list_present
from chat_app.crud.chats import list_changed
from chat_app.crud.sessions import read_active
from chat_app.database import LONGEST_TRANSACTION, Database
from chat_app.errors import ChatError
from chat_app.events import Recorded, ResyncRequired
from chat_app.live.bus import Bus
from chat_app.live.bus_messages import Online
from chat_app.live.connections import Connection, Connections
from chat_app.live.fanout import encode, resync_instead
from chat_app.live.order import Order
from chat_app.live.presence import Presence
from chat_app.logs import log_crash

COMPARE_SECONDS = 2.0
GATHER_SECONDS = 0.3
CLOSE_SECONDS = 1.5


class ClusterDelivery:
    """Delivers to the connections of this node and of the others."""

    def __init__(self, bus: Bus, order: Order) -> None:
        self.bus = bus
        self.order = order

    def deliver(self, events: list[Recorded]) -> int:
        """Deliver the events of a commit. Returns how many connections of this node were reached."""
        self.bus.publish(events)
        return self.order.release(events)

    def resync(self, events: list[Recorded]) -> None:
        """Deliver `resync_required` in place of these events."""
        self.deliver([Recorded(*resync_instead(events))])


class Cluster:
    """One node of several."""

    def __init__(
        self, bus: Bus, order: Order, database: Database, connections: Connections, presence: Presence
    ) -> None:
        self.bus = bus
        self.order = order
        self.database = database
        self.connections = connections
        self.presence = presence
        self._certain_at = time.monotonic()
        self._answer: asyncio.TimerHandle | None = None
        self._resync: asyncio.TimerHandle | None = None
        self._unchecked = asyncio.Event()
        self._background = Background()

    async def start(self) -> None:
        for work in (self.bus.run(self), self._compare(), self._check()):
            self._background.spawn(work)
        await self.bus.start()

    async def close(self) -> None:
        await self.bus.leave()
        await self._background.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.bus.client.aclose()

    def heard(self, events: list[Recorded]) -> None:
        self.order.release(events)

    def joined(self) -> None:
        self._unchecked.set()
        self._publish_presence(ask=True)

    def missed(self) -> None:
        if self._resync is None:
            # After an outage every other node shows a gap, one soon after the other.
            self._resync = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._resync_all)

    def online(self, node: UUID, online: Online) -> None:
        self.presence.heard(node, online)
        if online.ask and self._answer is None:
            # Several ask at once, and all hear the answer.
            self._answer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._publish_presence)

    def present(self, node: UUID, is_there: bool) -> None:
        if is_there:
            self.presence.returned(node)
        else:
            self.presence.lost(node)

    def _resync_all(self) -> None:
        """To all: whom it concerned nobody knows."""
        self._resync = None
        _ask_to_resync(self.connections, "missed")
        self._publish_presence(ask=True)
        self._unchecked.set()

    def _publish_presence(self, *, ask: bool = False) -> None:
        self._answer = None
        self.bus.publish(online=Online(came=list(self.presence.here()), whole=True, ask=ask))

    async def _compare(self) -> None:
        """While others may not be heard: look into the database for what they changed in the chats that are open."""
        while True:
            try:
                await self._resync_changed()
            except ChatError:
                pass  # the database is away, as was logged
            except Exception as error:
                log_crash(error)
            await asyncio.sleep(COMPARE_SECONDS)
            if not self.bus.is_incomplete.is_set():
                await self.bus.is_incomplete.wait()
                self._certain_at = time.monotonic()

    async def _resync_changed(self) -> None:
        chats = {connection.active_chat_id for connection in self.connections if connection.active_chat_id}
        if not chats:
            return
        # Of an older change the others told before, unless its commit came so late.
        seconds = time.monotonic() - self._certain_at + LONGEST_TRANSACTION.total_seconds()
        async with self.database.transaction() as db:
            versions = await list_changed(db, chats, timedelta(seconds=seconds))
        for chat_id, version in versions.items():
            if self.order.is_behind(chat_id, version):
                _ask_to_resync(self.connections.with_open(chat_id), "bus_lost")
                self._unchecked.set()

    async def _check(self) -> None:
        """After a loss: a removal may have been missed, or that HTTP set the active chat of a session."""
        while True:
            await self._unchecked.wait()
            self._unchecked.clear()
            try:
                await self._check_active()
            except ChatError:
                self._unchecked.set()  # the database is away, as was logged
            except Exception as error:
                log_crash(error)
            await asyncio.sleep(GATHER_SECONDS)

    async def _check_active(self) -> None:
        """Close the chats whose members the users of connections are not, and open those that sessions have active."""
        before = [(connection, connection.active) for connection in self.connections]
        following = {connection.actor.session_id for connection, _ in before if not connection.chose_chat}
        pairs = {(active.chat_id, connection.actor.id) for connection, active in before if active.chat_id}
        async with self.database.reading() as db:
            of_sessions = await read_active(db, following)
            members = await list_present(db, pairs)
        for connection, active in before:
            if connection.active != active:
                continue  # it was opened or lost since
            followed = None if connection.chose_chat else of_sessions.get(connection.actor.session_id)
            chat_id, version = followed or active
            if followed:
                is_lost = self.order.was_removed(chat_id, connection.actor.id, version)
            else:
                is_lost = (chat_id, connection.actor.id) not in members
            chat_id = None if is_lost else chat_id
            if chat_id != active.chat_id:
                connection.open_chat(chat_id, version)


def _ask_to_resync(connections: Iterable[Connection], reason: str) -> None:
    packet = encode(ResyncRequired(reason=reason))
    for connection in connections:
        connection.send(packet)
        metrics.resyncs.labels(reason).inc()
