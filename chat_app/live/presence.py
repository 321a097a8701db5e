"""Who is online, and who is told what of a person: their private chats, and whoever has a chat with them open."""

import asyncio
from collections.abc import Coroutine
from uuid import UUID

from chat_app.crud.presence import list_peers, list_watchers, write_last_seen
from chat_app.db import Database
from chat_app.errors import ChatError
from chat_app.events import PresenceChanged, UsersChanged
from chat_app.live.connections import Connection, Connections
from chat_app.live.fanout import encode

# Whoever comes back within it was never away.
GRACE_SECONDS = 10


class Presence:
    """Watches the connections of this process."""

    def __init__(self, connections: Connections, database: Database) -> None:
        self.connections = connections
        self.database = database
        self._leaving: dict[UUID, asyncio.TimerHandle] = {}
        self._telling: set[asyncio.Task[None]] = set()

    def is_online(self, user_id: UUID) -> bool:
        """Whether the user is connected, or was a moment ago."""
        return bool(self.connections.of_user(user_id)) or user_id in self._leaving

    def came(self, connection: Connection) -> None:
        """A connection is live: the others are told, and it is told who else is online."""
        user_id = connection.actor.id
        leaving = self._leaving.pop(user_id, None)
        if leaving:
            leaving.cancel()
        elif len(self.connections.of_user(user_id)) == 1:
            self.tell(PresenceChanged(user_id=user_id, online=True, last_seen_at=None), user_id)
        self._start(self._greet(connection))

    def went(self, user_id: UUID) -> None:
        """A connection is gone; if it was the last one, the others are told after a while."""
        if not self.connections.of_user(user_id) and user_id not in self._leaving:
            loop = asyncio.get_running_loop()
            self._leaving[user_id] = loop.call_later(GRACE_SECONDS, self._gone, user_id)

    def tell(self, event: PresenceChanged | UsersChanged, about: UUID) -> None:
        """Tell whoever watches this person."""
        self._start(self._tell(event, about))

    async def close(self) -> None:
        """The process ends: nobody is told, as they are all asked to connect elsewhere."""
        for leaving in self._leaving.values():
            leaving.cancel()
        for task in self._telling:
            task.cancel()

    def _gone(self, user_id: UUID) -> None:
        del self._leaving[user_id]
        self._start(self._say_goodbye(user_id))

    async def _say_goodbye(self, user_id: UUID) -> None:
        async with self.database.transaction() as session:
            last_seen_at = await write_last_seen(session, user_id)
        if not self.is_online(user_id):
            await self._tell(PresenceChanged(user_id=user_id, online=False, last_seen_at=last_seen_at), user_id)

    async def _tell(self, event: PresenceChanged | UsersChanged, about: UUID) -> None:
        async with self.database.transaction() as session:
            peers, chats = await list_watchers(session, about)
        watching = [self.connections.of_user(user_id) for user_id in peers]
        watching += [self.connections.with_open(chat_id) for chat_id in chats]
        packet = encode(event)
        for connection in set().union(*watching) - self.connections.of_user(about):
            connection.send(packet)

    async def _greet(self, connection: Connection) -> None:
        async with self.database.transaction() as session:
            watched = await list_peers(session, connection.actor.id, connection.active_chat_id)
        for user_id in watched:
            if user_id != connection.actor.id and self.is_online(user_id):
                connection.send(encode(PresenceChanged(user_id=user_id, online=True, last_seen_at=None)))

    def opened(self, connection: Connection) -> None:
        """A chat was opened: its members who are online are told."""
        self._start(self._greet(connection))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(_forgiving(work))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)


async def _forgiving(work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except ChatError:
        return  # the database is away, as was logged; presence is not worth a second try
