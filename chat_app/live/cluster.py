"""Keeps the connections of this node in step with the other nodes, over the bus, or without it from the database."""

import asyncio
import time
from collections.abc import Collection
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from chat_app import logs, metrics, tracing
from chat_app.background import Background
from chat_app.crud.access import list_present
from chat_app.crud.chats import list_changed
from chat_app.crud.sessions import read_active
from chat_app.database import LONGEST_TRANSACTION, Database
from chat_app.events import Recorded, ResyncRequired
from chat_app.live.bus import Bus
from chat_app.live.bus_messages import Message, Online
from chat_app.live.connections import Connection, Connections
from chat_app.live.fanout import Fanout, encode, log_resync
from chat_app.live.order import Order
from chat_app.live.presence import Presence

COMPARE_SECONDS = 2.0
GATHER_SECONDS = 0.3
CLOSE_SECONDS = 1.5


class ClusterFanout(Fanout):
    """Delivers the events of commits here to the connections of all nodes."""

    def __init__(self, connections: Connections, bus: Bus) -> None:
        super().__init__(connections)
        self.bus = bus
        # What is missing from the bus can't be waited for.
        self.order = Order(super().deliver, lambda: bus.is_up)

    def deliver(self, events: list[Recorded]) -> int:
        """Returns how many connections of this node were reached."""
        self.bus.publish(events)
        return self.order.release(events)


class Cluster:
    """One node of several."""

    def __init__(self, fanout: ClusterFanout, database: Database, presence: Presence) -> None:
        self.bus, self.order, self.connections = fanout.bus, fanout.order, fanout.connections
        self.database = database
        self.presence = presence
        self._certain_at = time.monotonic()
        self._is_asked = self._resync = self._unchecked = False
        self._background = Background()

    async def start(self) -> None:
        self._background.spawn(self.bus.run(self))
        self._background.repeat(self._compare, seconds=COMPARE_SECONDS)
        self._background.repeat(self._follow, seconds=GATHER_SECONDS)
        await self.bus.start()

    async def close(self) -> None:
        await self.bus.leave()
        await self._background.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.bus.client.aclose()

    def received(self, message: Message, events: list[Recorded]) -> None:
        if events:
            began, reached = time.time_ns(), self.order.release(events)
            ms = message.published_at and round((time.time() - message.published_at) * 1000, 1)
            logs.log_info("delivered", connections=reached, delay_ms=ms)
            tracing.delivered(message.traces if reached else [], began, str(message.node), reached)
            if message.published_at:
                metrics.bus_delay.observe(max(time.time() - message.published_at, 0))
        if message.online:
            self.presence.received(message.node, message.online)
            self._is_asked |= message.online.ask

    def joined(self) -> None:
        self._unchecked = True
        self._publish_presence(ask=True)

    def missed(self) -> None:
        self._resync = self._unchecked = True

    def present(self, node: UUID, is_there: bool) -> None:
        self.presence.node_present(node, is_there)

    def _publish_presence(self, *, ask: bool) -> None:
        self.bus.publish(online=Online(joined=list(self.presence.online.here), whole=True, ask=ask))

    async def _follow(self) -> None:
        """Once for everything that was missed, and for all who asked: after an outage every other node has a gap."""
        if self._resync:
            # To all connections: which of them missed something is not known.
            _ask_to_resync(list(self.connections), "missed")
        if self._resync or self._is_asked:
            self._publish_presence(ask=self._resync)
        self._resync = self._is_asked = False
        if self._unchecked:
            self._unchecked = False
            try:
                await self._check_active()
            except BaseException:
                self._unchecked = True
                raise

    async def _compare(self) -> None:
        """While messages of others may be lost: look into the database for what changed in the chats that are open."""
        chats = {connection.active_chat_id for connection in self.connections if connection.active_chat_id}
        # A chat that is opened later is read then.
        if self.bus.is_complete or not chats:
            self._certain_at = time.monotonic()
            return
        # Older changes were received before, unless their commit was that late.
        seconds = time.monotonic() - self._certain_at + LONGEST_TRANSACTION.total_seconds()
        async with self.database.transaction() as db:
            versions = await list_changed(db, chats, timedelta(seconds=seconds))
        for chat_id, version in versions.items():
            if self.order.is_behind(chat_id, version):
                _ask_to_resync(self.connections.with_open(chat_id), "bus_lost")
                self._unchecked = True

    async def _check_active(self) -> None:
        """A loss may have hidden a removal, or that HTTP set the active chat of a session.

        Close the chats whose members the users of connections are not, and open those that sessions have active.
        """
        before = [(connection, connection.active) for connection in self.connections]
        following = {connection.actor.session_id for connection, _ in before if not connection.chose_chat}
        pairs = {(active.chat_id, connection.actor.id) for connection, active in before if active.chat_id}
        async with self.database.reading() as db:
            of_sessions = await read_active(db, following)
            members = await list_present(db, pairs)
        for connection, active in before:
            if connection.active != active:
                continue  # it was opened or closed since
            user_id, session_id = connection.actor
            followed = None if connection.chose_chat else of_sessions.get(session_id)
            chat_id, version = followed or active
            was_removed = self.order.was_removed(chat_id, user_id, version)
            is_lost = was_removed if followed else (chat_id, user_id) not in members
            if is_lost or chat_id != active.chat_id:
                connection.open_chat(None if is_lost else chat_id, version)


def _ask_to_resync(connections: Collection[Connection], reason: str) -> None:
    packet = encode(ResyncRequired(reason=reason))
    for connection in connections:
        connection.send(packet)
    log_resync(connections, reason)
