"""Who is online, for private peers and for members who have a chat with the user open."""

import asyncio
from collections.abc import Collection, Iterable
from uuid import UUID

from chat_app.background import Background
from chat_app.crud.access import list_audience
from chat_app.crud.presence import read_watchers, write_last_seen
from chat_app.database import Database
from chat_app.events import PresenceChanged
from chat_app.live.bus import Bus
from chat_app.live.bus_messages import Online
from chat_app.live.connections import Connections
from chat_app.live.fanout import encode

# A user who comes back within it was never away.
GRACE_SECONDS = 10


class OnlineUsers:
    """The users who are connected to a node, or were a moment ago, as far as this node knows."""

    def __init__(self) -> None:
        self.here: set[UUID] = set()
        # By node.
        self.elsewhere: dict[UUID, set[UUID]] = {}

    def __contains__(self, user_id: object) -> bool:
        return user_id in self.here or any(user_id in users for users in self.elsewhere.values())


class Presence:
    """Watches the connections of this process, and keeps what other nodes publish of theirs in `online`."""

    def __init__(self, online: OnlineUsers, connections: Connections, database: Database, bus: Bus | None) -> None:
        self.online = online
        self.connections = connections
        self.database = database
        self.bus = bus
        self._leaving: dict[UUID, asyncio.Task[None]] = {}
        self._lost: dict[UUID, asyncio.Task[None]] = {}
        self._background = Background()

    def joined(self, user_id: UUID) -> None:
        """A connection of the user is live; if it is the first one, watchers get that."""
        if leaving := self._leaving.pop(user_id, None):
            leaving.cancel()
        if user_id not in self.online.here:
            was_online = user_id in self.online
            self.online.here.add(user_id)
            self._publish(Online(joined=[user_id]))
            if not was_online:
                self._background.spawn(self._announce([user_id], online=True))

    def left(self, user_id: UUID) -> None:
        """A connection is gone; if it was the user's last one, watchers learn it after a while."""
        # A login may still fail, and then would not end what it began.
        is_here = any(connection.is_started for connection in self.connections.of_user(user_id))
        if not is_here and user_id not in self._leaving:
            self._leaving[user_id] = self._background.spawn(self._leave(user_id))

    def received(self, node: UUID, online: Online) -> None:
        """Another node published who is connected to it."""
        before, joined = self.online.elsewhere.get(node, set()), set(online.joined)
        left = before & online.left.keys()
        expired = before - joined if online.whole else set()
        new = [user_id for user_id in joined if user_id not in self.online]
        self.online.elsewhere[node] = (before | joined) - left - expired
        self._background.spawn(self._announce(new, online=True))
        self._background.spawn(self._announce(left, online=False))
        self._background.spawn(self._expire(expired))

    def node_present(self, node: UUID, is_there: bool) -> None:
        """A node is silent or left: its users have a while to connect to another one, unless it is back before."""
        if lost := self._lost.pop(node, None):
            lost.cancel()
        if not is_there and node in self.online.elsewhere:
            self._lost[node] = self._background.spawn(self._lose(node))

    async def close(self) -> None:
        """End without a word: clients are asked to connect to another node."""
        await self._background.close()

    async def _leave(self, user_id: UUID) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        del self._leaving[user_id]
        self.online.here.discard(user_id)
        async with self.database.transaction() as db:
            last_seen_at = await write_last_seen(db, [user_id])
        if user_id not in self.online.here:
            self._publish(Online(left={user_id: last_seen_at}))
            await self._announce([user_id], online=False)

    async def _lose(self, node: UUID) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        del self._lost[node]
        await self._expire(self.online.elsewhere.pop(node))

    async def _expire(self, user_ids: Collection[UUID]) -> None:
        """Users whose node did not publish that they left."""
        if gone := [user_id for user_id in user_ids if user_id not in self.online]:
            async with self.database.transaction() as db:
                await write_last_seen(db, gone)
            await self._announce(gone, online=False)

    def _publish(self, online: Online) -> None:
        if self.bus:
            self.bus.publish(online=online)

    async def _announce(self, user_ids: Iterable[UUID], *, online: bool) -> None:
        """Deliver that these users are online now, or offline, to those who watch them."""
        for user_id in user_ids:
            if len(self.connections):
                await self._deliver(user_id, online)

    async def _deliver(self, user_id: UUID, online: bool) -> None:
        async with self.database.reading() as db:
            last_seen_at, peers, chats = await read_watchers(db, user_id)
            open_here = [chat_id for chat_id in chats if self.connections.with_open(chat_id)]
            # The user of a connection may be no member any more of the chat that it has open.
            members = await list_audience(db, open_here) if open_here else {}
        if (user_id in self.online) is not online:
            return  # that changed while it was read, and is announced by itself
        watching = {connection for peer_id in peers for connection in self.connections.of_user(peer_id)}
        for chat_id, member_ids in members.items():
            watching |= {each for each in self.connections.with_open(chat_id) if each.key in member_ids}
        packet = encode(PresenceChanged(user_id=user_id, online=online, last_seen_at=last_seen_at))
        for connection in watching - self.connections.of_user(user_id):
            connection.send(packet)
