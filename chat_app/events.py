"""Events: what changed, as a use case records it for the commit to release. Data only."""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import Enum, auto
from typing import Any, ClassVar, NamedTuple, Protocol
from uuid import UUID

from sqlmodel import Field, SQLModel

from chat_app.models.chats import ChatMine, ChatShared, MemberRead, RemovedChat
from chat_app.models.messages import MessageRead, MessageShared
from chat_app.models.users import UserBrief

# The recipients: user ids with the first seq that each may see.
Audience = Mapping[UUID, int]


class Reach(Enum):
    """Which connections of its audience an event is delivered to."""

    ALL = auto()
    OPEN_CHAT = auto()
    # One that the service picks: such an event is never recorded.
    ONE = auto()


class Event(SQLModel):
    """Its name is that of its class, in snake case."""

    event: ClassVar[str]
    reach: ClassVar[Reach] = Reach.ALL

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "event" not in vars(cls):
            cls.event = re.sub(r"\B(?=[A-Z])", "_", cls.__name__).lower()

    def header(self) -> dict[str, Any]:
        """The chat and the versions that order it among other events."""
        return {}


class ClientEvent(Event):
    """An event that clients receive; they read the docstring of its class."""


class NodeEvent(Event):
    """An event that changes connections, and is not delivered to clients."""


class Ready(ClientEvent):
    """The connection is live."""

    reach = Reach.ONE

    user_id: UUID
    session_id: UUID
    active_chat_id: UUID | None
    sync: str = Field(description="If it equals that of your last chat list, you missed nothing.")
    limits: dict[str, int]
    server_time: datetime


class ChatsChanged(ClientEvent):
    """The list of chats, or the number of messages in them, changed."""

    chats: list[ChatShared] = []
    mine: list[ChatMine] = Field(default=[], description="Only your own; drop an older version.")
    removed: list[RemovedChat] = []
    users: list[UserBrief] = Field(default=[], description="Users that are new to the client with this change.")

    def header(self) -> dict[str, Any]:
        """Raises ValueError for several chats: they would have to be ordered one by one."""
        if max(len(self.chats), len(self.mine), len(self.removed)) > 1:
            raise ValueError("an event of several chats")
        header: dict[str, Any] = {}
        for removal in self.removed:
            header |= {"chat_id": removal.chat_id, "removed_version": removal.version}
        for own in self.mine:
            header |= {"chat_id": own.chat_id, "mine_version": own.version}
        for chat in self.chats:
            sender_id = chat.last_message and chat.last_message.sender_id
            header |= {"chat_id": chat.id, "version": chat.version, "user_id": sender_id}
        return header


class MessagesChanged(ClientEvent):
    """Messages or members of the active chat changed."""

    reach = Reach.OPEN_CHAT

    chat_id: UUID
    since: int = Field(description="The version before this change: above the window's version means a gap.")
    version: int
    message_count: int
    messages: list[MessageRead | MessageShared] = []
    members: list[MemberRead] = []
    users: list[UserBrief] = []

    def header(self) -> dict[str, Any]:
        first_seq = min([message.seq for message in self.messages], default=0)
        return {"chat_id": self.chat_id, "since": self.since, "version": self.version, "first_seq": first_seq}


class ReadChanged(ClientEvent):
    """A member of the active chat has read further."""

    reach = Reach.OPEN_CHAT

    chat_id: UUID
    user_id: UUID
    last_read_seq: int


class TypingChanged(ClientEvent):
    """A member of the active chat is typing, or stopped. Repeated every 3 seconds; forget it after 6."""

    reach = Reach.OPEN_CHAT

    chat_id: UUID
    user_id: UUID
    typing: bool


class PresenceChanged(ClientEvent):
    """A user of a private chat, or of the active chat, is online now, or offline."""

    reach = Reach.ONE

    user_id: UUID
    online: bool
    last_seen_at: datetime | None = Field(description="null while online.")


class UsersChanged(ClientEvent):
    """A user of a private chat, or of the active chat, has a new name or picture."""

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

    def header(self) -> dict[str, Any]:
        return {"chat_id": self.chat_id, "version": self.version, "user_id": self.user_id}


# In the order of the documents.
CLIENT_EVENTS: list[type[ClientEvent]] = ClientEvent.__subclasses__()


class Recorded(NamedTuple):
    """An event that waits for the commit, and its audience; with a chat, only its connections that have that open."""

    event: Event
    audience: Audience
    open_chat_id: UUID | None = None


class Recording(Protocol):
    """A database session: it keeps what is recorded until its commit."""

    @property
    def info(self) -> dict[Any, Any]: ...


def record(db: Recording, event: Event, audience: Audience, open_chat_id: UUID | None = None) -> None:
    """Keep an event until the commit, which releases it; a rollback drops it.

    `open_chat_id`: deliver it only where this chat is open. For an event whose reach that is, it is the event's chat.
    """
    if event.reach is Reach.OPEN_CHAT:
        open_chat_id = vars(event)["chat_id"]
    db.info.setdefault("events", []).append(Recorded(event, audience, open_chat_id))


def recorded(db: Recording) -> list[Recorded]:
    """What was recorded in this transaction so far."""
    events: list[Recorded] = db.info.get("events", [])
    return events
