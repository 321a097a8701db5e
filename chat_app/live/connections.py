"""The connections of this process: found by user and by session, never by chat."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from chat_app.models.sessions import Actor


class Wire(Protocol):
    """What puts packets on a connection, in the order of the calls and without waiting."""

    def send(self, connection_id: str, packet: str) -> None: ...


@dataclass(slots=True, eq=False)
class Connection:
    """One Socket.IO connection of a session."""

    id: str
    actor: Actor
    wire: Wire
    expires_at: datetime
    active_chat_id: UUID | None = None
    # Whether this connection ever chose its active chat itself; if not, it follows what HTTP sets for the session.
    chose_chat: bool = False
    # What comes before the client was told `ready` waits here.
    waiting: list[str] | None = field(default_factory=list)

    def send(self, packet: str) -> None:
        """Send an encoded packet, after `ready`."""
        if self.waiting is None:
            self.wire.send(self.id, packet)
        else:
            self.waiting.append(packet)

    def start(self, ready: str) -> None:
        """Tell the client that it is live, and whatever happened meanwhile."""
        waiting, self.waiting = self.waiting or [], None
        for packet in [ready, *waiting]:
            self.wire.send(self.id, packet)

    def choose_chat(self, chat_id: UUID | None) -> None:
        """This connection decides what is active on it."""
        self.active_chat_id, self.chose_chat = chat_id, True


class Connections:
    """All connections of this process."""

    def __init__(self) -> None:
        self._by_id: dict[str, Connection] = {}
        self._by_user: dict[UUID, set[Connection]] = {}
        self._by_session: dict[UUID, set[Connection]] = {}

    def add(self, connection: Connection) -> None:
        self._by_id[connection.id] = connection
        self._by_user.setdefault(connection.actor.id, set()).add(connection)
        self._by_session.setdefault(connection.actor.session_id, set()).add(connection)

    def remove(self, connection_id: str) -> None:
        """Forget a connection; an unknown one is nothing."""
        connection = self._by_id.pop(connection_id, None)
        if connection is None:
            return
        for index, key in ((self._by_user, connection.actor.id), (self._by_session, connection.actor.session_id)):
            index[key].discard(connection)
            if not index[key]:
                del index[key]

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
