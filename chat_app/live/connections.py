"""The connections of this process, found by user, by session, and by the chats that they have open.

Having a chat open is a wish, not a right: the audience of an event decides who gets it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as DriverUUID

from chat_app.live.engine.frames import Packet
from chat_app.live.engine.sockets import Socket
from chat_app.models.sessions import Actor


class Opened(NamedTuple):
    """A chat that is open, and a version of the chat at which its user was a member."""

    chat_id: UUID | None
    version: int = 0

    def unless_lost(self, chat_id: UUID, version: int) -> "Opened":
        return NOTHING if self.chat_id == chat_id and version > self.version else self


NOTHING = Opened(None)
End = Callable[["Connection"], None]


class Connection:
    """One Socket.IO connection of a session. `end` closes it for good when its session was ended."""

    def __init__(self, socket: Socket, actor: Actor, connections: "Connections", end: End, *, chose_chat: bool) -> None:
        self.id: str = socket.sid
        self.socket = socket
        self.actor = actor
        # The user's id as audiences hold it: the driver's own class is found in dictionaries three times as fast.
        self.key: UUID = DriverUUID(actor.id.bytes)
        self.log_values = {"user": str(actor.id), "session": str(actor.session_id), "connection": self.id}
        # Whether this connection ever chose its active chat itself; if not, it follows what HTTP sets for the session.
        self.chose_chat = chose_chat
        # Whether the login is over. Packets that are sent earlier wait.
        self.is_started = False
        self.waiting: list[Packet] = []
        self.send: Callable[[Packet], None] = self.waiting.append
        self.active = NOTHING
        # The chat that becomes active when the command that opens it succeeds.
        self._opening: Opened | None = None
        self._connections = connections
        self._end = end

    def end(self) -> None:
        """Close the connection for good: its session was ended."""
        self._end(self)

    @property
    def active_chat_id(self) -> UUID | None:
        """The chat that this connection has open."""
        return self.active.chat_id

    @property
    def chat_ids(self) -> set[UUID]:
        """The chats whose changes this connection gets: while one is being opened, the former as well."""
        return {opened.chat_id for opened in (self.active, self._opening) if opened and opened.chat_id}

    def _open(self, active: Opened, opening: Opened | None = None) -> None:
        before = self.chat_ids
        self.active, self._opening = active, opening
        self._connections.move(self, before, self.chat_ids)

    def open_chat(self, chat_id: UUID | None, version: int) -> None:
        """Have this chat active, as of a version of it; None: no chat."""
        self._open(Opened(chat_id, version), self._opening)

    def lose_chat(self, chat_id: UUID, version: int) -> None:
        """The user was removed at this version. A chat that was opened after that stays open."""
        opening = self._opening and self._opening.unless_lost(chat_id, version)
        self._open(self.active.unless_lost(chat_id, version), opening)

    def start(self) -> None:
        """Send the waiting packets, and all later ones at once."""
        self.is_started = True
        # The shortest call, as it is made for each recipient of an event.
        send = self.socket.fast.send if self.socket.fast else self.socket.deliver
        host = self.socket.host
        self.send = send if host is None else (lambda packet: send(packet.at(host)))
        for packet in self.waiting:
            self.send(packet)
        self.waiting.clear()

    def prepare_chat(self, chat_id: UUID | None, version: int = 0) -> None:
        """Get the changes of this chat too, which becomes active when `choosing` ends."""
        self._open(self.active, Opened(chat_id, version))

    @contextmanager
    def choosing(self) -> Iterator[None]:
        """Activate the chat that was prepared inside at the end. After a failure the former chat stays active, and the
        client has all its changes.
        """
        try:
            yield
            if self._opening:
                self.chose_chat = True
                self._open(self._opening)
        finally:
            if self._opening:
                self._open(self.active)


Index = defaultdict[UUID, set[Connection]]


class Connections:
    """All connections of this process."""

    def __init__(self) -> None:
        self._by_id: dict[str, Connection] = {}
        self._by_user: Index = defaultdict(set)
        self._by_session: Index = defaultdict(set)
        self._by_chat: Index = defaultdict(set)

    def add(self, connection: Connection) -> None:
        self._by_id[connection.id] = connection
        self._by_user[connection.key].add(connection)
        self._by_session[connection.actor.session_id].add(connection)

    def remove(self, connection_id: str) -> Connection | None:
        """Forget a connection, if there is one, and return it."""
        connection = self._by_id.pop(connection_id, None)
        if connection is not None:
            _discard(self._by_user, connection.key, connection)
            _discard(self._by_session, connection.actor.session_id, connection)
            self.move(connection, connection.chat_ids, set())
        return connection

    def move(self, connection: Connection, former: set[UUID], chat_ids: set[UUID]) -> None:
        """Find a connection, if it was not removed, by these chats instead of the former ones."""
        for chat_id in former - chat_ids:
            _discard(self._by_chat, chat_id, connection)
        if connection.id in self._by_id:
            for chat_id in chat_ids - former:
                self._by_chat[chat_id].add(connection)

    def with_open(self, chat_id: UUID) -> set[Connection]:
        """The connections that have this chat open."""
        return self._by_chat.get(chat_id, _NONE)

    def get(self, connection_id: str) -> Connection | None:
        return self._by_id.get(connection_id)

    def of_user(self, user_id: UUID) -> set[Connection]:
        return self._by_user.get(user_id, _NONE)

    def of_session(self, session_id: UUID) -> set[Connection]:
        return self._by_session.get(session_id, _NONE)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)


_NONE: set[Connection] = set()


def _discard(index: Index, key: UUID, connection: Connection) -> None:
    found = index.get(key, _NONE)
    found.discard(connection)
    if not found:
        index.pop(key, None)
