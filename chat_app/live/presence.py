"""Who is online, for private peers and for members who have a chat with the user open."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import datetime
from uuid import UUID

from chat_app.background import Background
from chat_app.crud.access import list_audience
from chat_app.crud.presence import list_peers, list_watchers, write_last_seen
from chat_app.database import Database
from chat_app.events import PresenceChanged
from chat_app.live.bus import Bus
from chat_app.live.bus_messages import Online
from chat_app.live.connections import Connection, Connections
from chat_app.live.fanout import encode

# A user who comes back within it was never away.
GRACE_SECONDS = 10

# When each was seen last; None: online.
LastSeen = Mapping[UUID, datetime | None]


class Presence:
    """Watches the connections of this process, and keeps what other nodes publish of theirs."""

    def __init__(self, connections: Connections, database: Database, bus: Bus | None) -> None:
        self.connections = connections
        self.database = database
        self.bus = bus
        # The users who are connected to this process, or were a moment ago.
        self.here: set[UUID] = set()
        self._elsewhere: dict[UUID, set[UUID]] = {}
        self._leaving: dict[UUID, asyncio.Task[None]] = {}
        self._lost: dict[UUID, asyncio.Task[None]] = {}
        self._background = Background()

    def is_online(self, user_id: UUID) -> bool:
        """Whether the user is connected to any node, or was a moment ago."""
        return user_id in self.here or self._is_elsewhere(user_id)

    def _is_elsewhere(self, user_id: UUID) -> bool:
        return any(user_id in users for users in self._elsewhere.values())

    def joined(self, connection: Connection) -> None:
        """A connection is live: watchers get its user's presence, and it gets theirs."""
        user_id = connection.actor.id
        if leaving := self._leaving.pop(user_id, None):
            leaving.cancel()
        if user_id not in self.here:
            self.here.add(user_id)
            self._publish(Online(joined=[user_id]))
            if not self._is_elsewhere(user_id):
                self._background.spawn(self._announce({user_id: None}))
        self.opened(connection)

    def left(self, user_id: UUID) -> None:
        """A connection is gone; if it was the user's last one, watchers learn it after a while."""
        # A login may still fail, and then would not end what it began.
        is_here = any(connection.is_started for connection in self.connections.of_user(user_id))
        if not is_here and user_id not in self._leaving:
            self._leaving[user_id] = self._background.spawn(self._leave(user_id))

    def opened(self, connection: Connection) -> None:
        """A connection opened a chat, if only by its login: it gets the presence of the members."""
        self._background.spawn(self._deliver_presence(connection))

    def received(self, node: UUID, online: Online) -> None:
        """Another node published who is connected to it."""
        before, joined = self._elsewhere.get(node, set()), set(online.joined)
        left = {user_id: online.left[user_id] for user_id in before & online.left.keys()}
        expired = before - joined if online.whole else set()
        new: LastSeen = {user_id: None for user_id in joined if not self.is_online(user_id)}
        self._elsewhere[node] = (before | joined) - left.keys() - expired
        self._background.spawn(self._announce({**new, **left}))
        self._background.spawn(self._expire(expired))

    def node_present(self, node: UUID, is_there: bool) -> None:
        """A node is silent or left: its users have a while to connect to another one, unless it is back before."""
        if lost := self._lost.pop(node, None):
            lost.cancel()
        if not is_there and node in self._elsewhere:
            self._lost[node] = self._background.spawn(self._lose(node))

    async def close(self) -> None:
        """End without a word: clients are asked to connect to another node."""
        await self._background.close()

    async def _leave(self, user_id: UUID) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        del self._leaving[user_id]
        self.here.discard(user_id)
        last_seen_at = await self._write_last_seen([user_id])
        if user_id not in self.here:
            self._publish(Online(left={user_id: last_seen_at}))
            await self._announce({user_id: last_seen_at})

    async def _lose(self, node: UUID) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        del self._lost[node]
        await self._expire(self._elsewhere.pop(node))

    async def _expire(self, user_ids: Collection[UUID]) -> None:
        """Users whose node did not publish that they left."""
        if gone := [user_id for user_id in user_ids if not self.is_online(user_id)]:
            await self._announce(dict.fromkeys(gone, await self._write_last_seen(gone)))

    def _publish(self, online: Online) -> None:
        if self.bus:
            self.bus.publish(online=online)

    async def _write_last_seen(self, user_ids: Collection[UUID]) -> datetime:
        async with self.database.transaction() as db:
            return await write_last_seen(db, user_ids)

    async def _announce(self, last_seen: LastSeen) -> None:
        for user_id, last_seen_at in last_seen.items():
            is_online = last_seen_at is None
            if self.is_online(user_id) is is_online and len(self.connections):
                await self._deliver(PresenceChanged(user_id=user_id, online=is_online, last_seen_at=last_seen_at))

    async def _deliver(self, event: PresenceChanged) -> None:
        async with self.database.reading() as db:
            peers, chats = await list_watchers(db, event.user_id)
            open_here = [chat_id for chat_id in chats if self.connections.with_open(chat_id)]
            # The user of a connection may be no member any more of the chat that it has open.
            members = await list_audience(db, open_here) if open_here else {}
        watching = {connection for user_id in peers for connection in self.connections.of_user(user_id)}
        for chat_id, user_ids in members.items():
            watching |= {each for each in self.connections.with_open(chat_id) if each.key in user_ids}
        packet = encode(event)
        for connection in watching - self.connections.of_user(event.user_id):
            connection.send(packet)

    async def _deliver_presence(self, connection: Connection) -> None:
        async with self.database.reading() as db:
            watched = await list_peers(db, connection.actor.id, connection.active_chat_id)
        for user_id in watched - {connection.actor.id}:
            if self.is_online(user_id):
                connection.send(encode(PresenceChanged(user_id=user_id, online=True, last_seen_at=None)))
