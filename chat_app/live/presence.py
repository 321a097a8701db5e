"""Who is online, for private peers and for members who have a chat with the user open."""

import asyncio
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from uuid import UUID

from chat_app.background import Background
from chat_app.crud.access import list_audience
from chat_app.crud.presence import list_peers, list_watchers, write_last_seen
from chat_app.database import Database
from chat_app.events import PresenceChanged
from chat_app.live.bus_messages import Online
from chat_app.live.connections import Connection, Connections
from chat_app.live.fanout import encode

# Whoever comes back within it was never away.
GRACE_SECONDS = 10


class Presence:
    """Watches the connections of this process, and keeps what other nodes say of theirs."""

    def __init__(
        self, connections: Connections, database: Database, publish: Callable[[Online], None] = lambda online: None
    ) -> None:
        self.connections = connections
        self.database = database
        self.publish = publish
        self._leaving: dict[UUID, asyncio.TimerHandle] = {}
        self._elsewhere: dict[UUID, set[UUID]] = {}
        self._lost: dict[UUID, asyncio.TimerHandle] = {}
        self._background = Background()

    def here(self) -> set[UUID]:
        """The users who are connected to this process, or were a moment ago."""
        return {connection.actor.id for connection in self.connections if connection.is_started} | set(self._leaving)

    def is_online(self, user_id: UUID) -> bool:
        """Whether the user is connected, to whatever node, or was a moment ago."""
        is_here = self._count(user_id) or user_id in self._leaving
        return bool(is_here) or any(user_id in users for users in self._elsewhere.values())

    def _count(self, user_id: UUID) -> int:
        """The connections of a user here. A login may still fail, and then would not end what it began."""
        return sum(connection.is_started for connection in self.connections.of_user(user_id))

    def came(self, connection: Connection) -> None:
        """A connection is live: the others are told, and it is told who else is online."""
        user_id = connection.actor.id
        leaving = self._leaving.pop(user_id, None)
        if leaving:
            leaving.cancel()
        elif self._count(user_id) == 1:
            self.publish(Online(came=[user_id]))
            if not any(user_id in users for users in self._elsewhere.values()):
                self._background.spawn(self._deliver_online([user_id]))
        self._background.spawn(self._deliver_presence(connection))

    def went(self, user_id: UUID) -> None:
        """A connection is gone; if it was the last one, the others are told after a while."""
        if not self._count(user_id) and user_id not in self._leaving:
            loop = asyncio.get_running_loop()
            self._leaving[user_id] = loop.call_later(GRACE_SECONDS, self._gone, user_id)

    def heard(self, node: UUID, online: Online) -> None:
        """Another node says who is connected to it."""
        before = self._elsewhere.get(node, set())
        came, went = set(online.came) - before, {user_id: online.went[user_id] for user_id in before & set(online.went)}
        vanished = before - set(online.came) if online.whole else set()
        new = [user_id for user_id in came if not self.is_online(user_id)]
        self._elsewhere[node] = (before | came) - set(went) - vanished
        self._background.spawn(self._deliver_online(new))
        self._background.spawn(self._deliver_offline(went))
        self._background.spawn(self._expire(vanished))

    def lost(self, node: UUID) -> None:
        """A node is gone: its users have a while to come back to another one."""
        if node in self._elsewhere and node not in self._lost:
            self._lost[node] = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._forget, node)

    def returned(self, node: UUID) -> None:
        """A node was not gone after all."""
        if lost := self._lost.pop(node, None):
            lost.cancel()

    async def close(self) -> None:
        """The process ends: nobody is told, as they are all asked to connect elsewhere."""
        for timer in [*self._leaving.values(), *self._lost.values()]:
            timer.cancel()
        await self._background.close()

    def _gone(self, user_id: UUID) -> None:
        del self._leaving[user_id]
        self._background.spawn(self._announce_offline(user_id))

    async def _announce_offline(self, user_id: UUID) -> None:
        async with self.database.transaction() as db:
            last_seen_at = await write_last_seen(db, [user_id])
        if not self._count(user_id):
            self.publish(Online(went={user_id: last_seen_at}))
            await self._deliver_offline({user_id: last_seen_at})

    def _forget(self, node: UUID) -> None:
        del self._lost[node]
        self._background.spawn(self._expire(self._elsewhere.pop(node)))

    async def _expire(self, user_ids: Collection[UUID]) -> None:
        """Users whose node did not say that they went."""
        gone = [user_id for user_id in user_ids if not self.is_online(user_id)]
        if gone:
            async with self.database.transaction() as db:
                last_seen_at = await write_last_seen(db, gone)
            await self._deliver_offline(dict.fromkeys(gone, last_seen_at))

    async def _deliver_online(self, user_ids: Iterable[UUID]) -> None:
        for user_id in user_ids:
            await self._tell(PresenceChanged(user_id=user_id, online=True, last_seen_at=None))

    async def _deliver_offline(self, last_seen: dict[UUID, datetime]) -> None:
        for user_id, last_seen_at in last_seen.items():
            if not self.is_online(user_id):
                await self._tell(PresenceChanged(user_id=user_id, online=False, last_seen_at=last_seen_at))

    async def _tell(self, event: PresenceChanged) -> None:
        if not len(self.connections):
            return
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
        for user_id in watched:
            if user_id != connection.actor.id and self.is_online(user_id):
                connection.send(encode(PresenceChanged(user_id=user_id, online=True, last_seen_at=None)))

    def opened(self, connection: Connection) -> None:
        """A chat was opened: its members who are online are told."""
        self._background.spawn(self._deliver_presence(connection))
