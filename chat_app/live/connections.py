"""The connections of this process: found by user, by session, and by what they have open.

Having a chat open is a wish, not a right: who is told of a chat, its audience decides.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as DriverUUID

from chat_app.models.sessions import Actor


def frame(packet: bytes) -> bytes:
    """A whole text frame of the WebSocket protocol, as servers send it: not masked."""
    length = len(packet)
    if length < 126:
        return bytes((0x81, length)) + packet
    if length < 2**16:
        return b"\x81\x7e" + length.to_bytes(2, "big") + packet
    return b"\x81\x7f" + length.to_bytes(8, "big") + packet


class Packet:
    """A Socket.IO packet: encoded once, and framed once for all the WebSockets that it goes to."""

    __slots__ = ("body", "framed")

    def __init__(self, body: bytes) -> None:
        self.body = body
        # 4: to Engine.IO it is a message.
        self.framed = frame(b"4" + body)


class Wire(Protocol):
    """What puts packets on a connection, in the order of the calls and without waiting."""

    def send(self, connection: "Connection", packet: Packet) -> None: ...


class Opened(NamedTuple):
    """A chat that is open, and a version of the chat at which its user was a member."""

    chat_id: UUID | None
    version: int = 0

    def unless_lost(self, chat_id: UUID, version: int) -> "Opened":
        return NOTHING if self.chat_id == chat_id and version > self.version else self


NOTHING = Opened(None)


class Connection:
    """One Socket.IO connection of a session."""

    __slots__ = (
        *("_connections", "_end", "_opening", "about", "active", "actor", "chose_chat", "id", "key", "send"),
        *("waiting", "wire"),
    )

    def __init__(
        self,
        id: str,
        actor: Actor,
        wire: Wire,
        connections: "Connections",
        end: Callable[["Connection"], None],
    ) -> None:
        self.id = id
        self.actor = actor
        # The user's id as audiences hold it: the driver's own class is found in dictionaries three times as fast.
        self.key: UUID = DriverUUID(actor.id.bytes)
        # For the log.
        self.about = {"user": str(actor.id), "session": str(actor.session_id)}
        self.wire = wire
        # Send an encoded packet, after `ready`; the wire puts a shorter way here once it knows one.
        self.send: Callable[[Packet], None] = self._send
        # Whether this connection ever chose its active chat itself; if not, it follows what HTTP sets for the session.
        self.chose_chat = False
        # What comes before the client was told `ready` waits here.
        self.waiting: list[Packet] | None = []
        self.active = NOTHING
        # What becomes active once the command that opens it succeeds.
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
        self._connections.close_chats(self)
        self.active, self._opening = active, opening
        self._connections.open_chats(self)

    def open_chat(self, chat_id: UUID | None, version: int) -> None:
        """Have this chat active, as of a version of it; None: no chat."""
        self._open(Opened(chat_id, version), self._opening)

    def lose_chat(self, chat_id: UUID, version: int) -> None:
        """The user was removed at this version. A chat that was opened after that stays open."""
        if chat_id in self.chat_ids:
            opening = self._opening and self._opening.unless_lost(chat_id, version)
            self._open(self.active.unless_lost(chat_id, version), opening)

    def _send(self, packet: Packet) -> None:
        if self.waiting is None:
            self.wire.send(self, packet)
        else:
            self.waiting.append(packet)

    @property
    def is_started(self) -> bool:
        """Whether the login is over, and the client gets what is sent."""
        return self.waiting is None

    def start(self, ready: Packet) -> None:
        """Tell the client that it is live, and whatever happened meanwhile."""
        waiting, self.waiting = self.waiting or [], None
        for packet in [ready, *waiting]:
            self.wire.send(self, packet)

    def prepare_chat(self, chat_id: UUID | None, version: int = 0) -> None:
        """Get the changes of this chat too, which becomes active when `choosing` ends."""
        self._open(self.active, Opened(chat_id, version))

    @contextmanager
    def choosing(self) -> Iterator[None]:
        """The chat that is prepared inside becomes active at the end. If that fails, the former chat stays active,
        and no change of it was left out meanwhile: the client that gets an error goes on showing it.
        """
        try:
            yield
            if self._opening:
                self.chose_chat = True
                self._open(self._opening)
        finally:
            if self._opening:
                self._open(self.active)


class Connections:
    """All connections of this process."""

    def __init__(self) -> None:
        self._by_id: dict[str, Connection] = {}
        self._by_user: dict[UUID, set[Connection]] = {}
        self._by_session: dict[UUID, set[Connection]] = {}
        self._by_chat: dict[UUID, set[Connection]] = {}

    def add(self, connection: Connection) -> None:
        self._by_id[connection.id] = connection
        self._by_user.setdefault(connection.key, set()).add(connection)
        self._by_session.setdefault(connection.actor.session_id, set()).add(connection)
        self.open_chats(connection)

    def remove(self, connection_id: str) -> None:
        """Forget a connection; an unknown one is nothing."""
        connection = self._by_id.pop(connection_id, None)
        if connection is not None:
            _discard(self._by_user, connection.key, connection)
            _discard(self._by_session, connection.actor.session_id, connection)
            self.close_chats(connection)

    def open_chats(self, connection: Connection) -> None:
        """Find this connection by the chats that it has open now."""
        if connection.id in self._by_id:
            for chat_id in connection.chat_ids:
                self._by_chat.setdefault(chat_id, set()).add(connection)

    def close_chats(self, connection: Connection) -> None:
        """No longer find this connection by its chats."""
        for chat_id in connection.chat_ids:
            _discard(self._by_chat, chat_id, connection)

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


def _discard(index: dict[UUID, set[Connection]], key: UUID, connection: Connection) -> None:
    found = index.get(key, _NONE)
    found.discard(connection)
    if not found:
        index.pop(key, None)
