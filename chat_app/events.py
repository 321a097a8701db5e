"""Events: what changed, as a use case records it for the commit to release. Data only."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum, auto
from typing import Any, ClassVar, NamedTuple, Protocol
from uuid import UUID

import orjson
from sqlmodel import Field, SQLModel

from chat_app.models.chats import ChatMine, ChatShared, MemberRead, RemovedChat, Unread
from chat_app.models.messages import MessageRead, MessageShared
from chat_app.models.users import UserBrief
from chat_app.models.wire_json import as_json

# The recipients: user ids with the first seq that each may see.
Audience = Mapping[UUID, int]


class Reach(Enum):
    """Which connections of its audience an event is delivered to."""

    ALL = auto()
    OPEN_CHAT = auto()
    # One that the service picks: such an event is never recorded.
    ONE = auto()
    # Those that the event names, without delivering anything to their clients.
    NODE = auto()


class Header(NamedTuple):
    """What orders an event among those of its chat. What is 0 or None does not apply to it."""

    chat_id: UUID | None = None
    since: int = 0
    version: int = 0
    first_seq: int = 0
    mine_version: int = 0
    removed_version: int = 0
    # Of the sender of the last message, or of the owner of a session.
    user_id: UUID | None = None


class Event(SQLModel):
    """Its name is that of its class, in snake case."""

    event: ClassVar[str]
    reach: ClassVar[Reach] = Reach.ALL

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "event" not in vars(cls):
            cls.event = re.sub(r"\B(?=[A-Z])", "_", cls.__name__).lower()

    def header(self) -> Header:
        """By default only the chat that the event names, if it does."""
        return Header(vars(self).get("chat_id"))


class ClientEvent(Event):
    """An event that clients receive; they read the docstring of its class."""


class NodeEvent(Event):
    """An event that changes connections, and is not delivered to clients."""

    reach = Reach.NODE


class Ready(ClientEvent):
    """The connection is live."""

    reach = Reach.ONE

    user_id: UUID
    session_id: UUID
    active_chat_id: UUID | None
    sync: str = Field(description="If it equals that of your last chat list, you missed nothing.")
    unread: Unread
    limits: dict[str, int]
    server_time: datetime
    online: list[UUID] = Field(
        description="Of your private peers, and of the members of the active chat, those who are online."
    )


class ChatsChanged(ClientEvent):
    """The list of chats, or the number of messages in them, changed."""

    chats: list[ChatShared] = []
    mine: list[ChatMine] = Field(default=[], description="Only your own; drop an older version.")
    removed: list[RemovedChat] = []
    users: list[UserBrief] = Field(default=[], description="Of a group: sender and people of the last message.")

    def header(self) -> Header:
        """Raises ValueError for several chats: they would have to be ordered one by one."""
        if len(self.chats) > 1 or len(self.mine) > 1 or len(self.removed) > 1:
            raise ValueError("an event of several chats")
        if self.removed:
            return Header(self.removed[0].chat_id, removed_version=self.removed[0].version)
        mine_version = self.mine[0].version if self.mine else 0
        if not self.chats:
            return Header(self.mine[0].chat_id, mine_version=mine_version)
        chat, last = self.chats[0], self.chats[0].last_message
        sender_id = last.sender_id if last else None
        return Header(chat.id, version=chat.version, mine_version=mine_version, user_id=sender_id)


class MessagesChanged(ClientEvent):
    """Messages or members of the active chat changed."""

    reach = Reach.OPEN_CHAT

    chat_id: UUID
    since: int = Field(description="The version before this change: above the window's version means a gap.")
    version: int
    message_count: int
    # In the order of their seqs.
    messages: list[MessageRead | MessageShared] = []
    members: list[MemberRead] = []
    users: list[UserBrief] = []
    replied: list[MessageShared] = Field(default=[], description="Quoted messages that are not among the messages.")

    def header(self) -> Header:
        first_seq = self.messages[0].seq if self.messages else 0
        return Header(self.chat_id, self.since, self.version, first_seq)


class ReadChanged(ClientEvent):
    """A member of the active chat, or the peer of a private chat, has read further."""

    reach = Reach.OPEN_CHAT

    chat_id: UUID
    user_id: UUID
    last_read_seq: int


class TypingChanged(ClientEvent):
    """A member of the active chat, or the peer of a private chat, is typing, or stopped. Repeated every 3 seconds;
    forget it after 6.
    """

    reach = Reach.OPEN_CHAT

    chat_id: UUID
    user_id: UUID
    typing: bool


class PresenceChanged(ClientEvent):
    """A user of a private chat, or of the active chat, is online now, or offline. `ready` and the answer that opens a
    chat have in `online` who is already.
    """

    reach = Reach.ONE

    user_id: UUID
    online: bool
    last_seen_at: datetime | None = Field(description="When the user was last online, before now; null: never.")


class UsersChanged(ClientEvent):
    """A user of a private chat, or of the active chat, has a new name or picture.

    A private peer also gets `chats_changed`, as it is a part of `mine.peer`.
    """

    users: list[UserBrief]


class ResyncRequired(ClientEvent):
    """Something may have been missed: list the chats with `changed_since`, and for the open chat its changes."""

    reason: str


class SessionEnded(ClientEvent):
    """This session was ended; the server closes the connection."""

    event = "session_revoked"
    reach = Reach.ONE

    code: str


class SessionsRevoked(NodeEvent):
    """Sessions ended: their connections get `session_revoked` and are closed."""

    session_ids: list[UUID]


class ActiveChatSet(NodeEvent):
    """HTTP set the active chat of a session: connections that never set their own follow."""

    session_id: UUID
    chat_id: UUID | None
    # A version of the chat at which the user was a member: removals up to it are older.
    version: int = 0
    user_id: UUID | None = None

    def header(self) -> Header:
        return Header(self.chat_id, version=self.version, user_id=self.user_id)


# In the order of the documents.
CLIENT_EVENTS: list[type[ClientEvent]] = ClientEvent.__subclasses__()


class Recorded(NamedTuple):
    """An event of a transaction here or on another node: its JSON, made once, and who gets it."""

    kind: type[Event]
    audience: Audience
    body: bytes
    header: Header = Header()
    # Deliver it only to connections that have this chat open, and to all connections of the peer of a private chat.
    open_chat_id: UUID | None = None
    peer_id: UUID | None = None

    @property
    def event(self) -> Event:
        return self.kind.model_validate_json(self.body)

    def seen_from(self, seq: int) -> "Recorded":
        """The same change without the messages before this one."""
        change = orjson.loads(self.body)
        visible = [message for message in change["messages"] if message["seq"] >= seq]
        return self._replace(body=orjson.dumps(change | {"messages": visible}))

    def without(self, part: str) -> "Recorded":
        """The same event with an empty list in this place."""
        return self._replace(body=orjson.dumps(orjson.loads(self.body) | {part: []}))


class Recording(Protocol):
    """A database session: it keeps what is recorded until its commit."""

    @property
    def info(self) -> dict[Any, Any]: ...


def record(
    db: Recording, event: Event, audience: Audience, open_chat_id: UUID | None = None, peer_id: UUID | None = None
) -> None:
    """Keep an event until the commit, which releases it; a rollback drops it.

    `open_chat_id`: deliver it only where this chat is open. For an event whose reach that is, it is the event's chat.
    `peer_id`: somebody of its audience who gets it on all connections, whether the chat is open there or not.
    """
    header = event.header()
    if event.reach is Reach.OPEN_CHAT:
        open_chat_id = header.chat_id
    made = Recorded(type(event), audience, as_json(event), header, open_chat_id, peer_id)
    db.info.setdefault("events", []).append(made)


def recorded(db: Recording) -> list[Recorded]:
    """What was recorded in this transaction so far."""
    events: list[Recorded] = db.info.get("events", [])
    return events


def resync(audience: Iterable[UUID], reason: str = "undelivered") -> Recorded:
    """What its audience gets in place of events that may have happened."""
    return Recorded(ResyncRequired, dict.fromkeys(audience, 0), as_json(ResyncRequired(reason=reason)))
