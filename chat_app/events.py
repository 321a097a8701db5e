"""What the service tells its clients, and how a use case records it: data only, released by the commit."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, Protocol
from uuid import UUID

from sqlmodel import Field, SQLModel

from chat_app.models.chats import ChatMine, ChatShared, MemberRead, RemovedChat
from chat_app.models.messages import MessageRead, MessageShared
from chat_app.models.users import UserBrief

# Who is told: user ids with the first seq that each may see.
Audience = Mapping[UUID, int]


class ChatsChanged(SQLModel):
    """The list of chats, or the number of messages in them, changed."""

    event: ClassVar[str] = "chats_changed"

    chats: list[ChatShared] = []
    mine: list[ChatMine] = Field(default=[], description="Only one's own; an older version is to be dropped.")
    removed: list[RemovedChat] = []
    users: list[UserBrief] = Field(default=[], description="Whoever the change brings in.")


class MessagesChanged(SQLModel):
    """Messages or members of the active chat changed."""

    event: ClassVar[str] = "messages_changed"

    chat_id: UUID
    since: int = Field(description="The version before this change: above the window's version means a gap.")
    version: int
    message_count: int
    messages: list[MessageRead | MessageShared] = []
    members: list[MemberRead] = []
    users: list[UserBrief] = []

    def seen_from(self, visible_from_seq: int) -> "MessagesChanged":
        """The same change for somebody who sees the chat from a later message on."""
        visible = [message for message in self.messages if message.seq >= visible_from_seq]
        return self if len(visible) == len(self.messages) else self.model_copy(update={"messages": visible})


class ReadChanged(SQLModel):
    """A member of the active chat has read further."""

    event: ClassVar[str] = "read_changed"

    chat_id: UUID
    user_id: UUID
    last_read_seq: int


class TypingChanged(SQLModel):
    """A member of the active chat types, or stopped: repeated every 3 seconds, to be forgotten after 6."""

    event: ClassVar[str] = "typing_changed"

    chat_id: UUID
    user_id: UUID
    typing: bool


class PresenceChanged(SQLModel):
    """Somebody of a private chat, or of the active chat, came or went."""

    event: ClassVar[str] = "presence_changed"

    user_id: UUID
    online: bool
    last_seen_at: datetime | None = Field(description="null while online.")


class UsersChanged(SQLModel):
    """Somebody of a private chat, or of the active chat, has another name or picture."""

    event: ClassVar[str] = "users_changed"

    users: list[UserBrief]


class ResyncRequired(SQLModel):
    """Something may have been missed: list the chats with `changed_since`, and for the open chat its changes."""

    event: ClassVar[str] = "resync_required"

    reason: str


class MemberChanged(SQLModel):
    """A member of a chat has another name or picture: `users_changed` for those who have the chat active."""

    chat_id: UUID
    users: list[UserBrief]


class SessionsRevoked(SQLModel):
    """Sessions ended: their connections are told `session_revoked` and closed."""

    session_ids: list[UUID]


class ActiveChatSet(SQLModel):
    """HTTP set the active chat of a session: connections that never set their own follow."""

    session_id: UUID
    chat_id: UUID | None
    # The chat's at that time, when the user was a member: a removal up to it came before.
    version: int = 0
    user_id: UUID | None = None


class Ready(SQLModel):
    """The connection is live."""

    event: ClassVar[str] = "ready"

    user_id: UUID
    session_id: UUID
    active_chat_id: UUID | None
    sync: str = Field(description="Equal to that of the last chat list: nothing was missed.")
    limits: dict[str, int]
    server_time: datetime


class SessionEnded(SQLModel):
    """This session was ended; the server closes the connection."""

    event: ClassVar[str] = "session_revoked"

    code: str


Event = (
    ChatsChanged
    | MessagesChanged
    | ReadChanged
    | TypingChanged
    | UsersChanged
    | MemberChanged
    | ResyncRequired
    | SessionsRevoked
    | ActiveChatSet
)
WireEvent = (
    ChatsChanged
    | MessagesChanged
    | ReadChanged
    | TypingChanged
    | PresenceChanged
    | UsersChanged
    | ResyncRequired
    | Ready
    | SessionEnded
)


class Recorded(NamedTuple):
    """An event that waits for the commit, with those who are told."""

    event: Event
    audience: Audience


class Recording(Protocol):
    """What keeps notes until its commit: a session."""

    @property
    def info(self) -> dict[Any, Any]: ...


def record(db: Recording, event: Event, audience: Audience) -> None:
    """Keep an event until the commit, which releases it; a rollback drops it."""
    db.info.setdefault("events", []).append(Recorded(event, audience))


def recorded(db: Recording) -> list[Recorded]:
    """What was recorded in this transaction so far."""
    events: list[Recorded] = db.info.get("events", [])
    return events
