"""Chats and memberships. The chat holds what all members share, the membership what is personal."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field as Check
from pydantic import StrictBool, StringConstraints
from sqlalchemy import Index, false
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from chat_app.models.base import (
    LIMITS,
    NO_NUL,
    UNSET,
    Counter,
    Input,
    Line,
    Position,
    Seq,
    Time,
    Update,
    new_id,
    text_enum,
)
from chat_app.models.messages import Preview
from chat_app.models.users import Avatar, UserBrief

UserIds = Annotated[list[UUID], Check(min_length=1, max_length=LIMITS["members_at_once"])]


class ChatType(StrEnum):
    """Treat a type that you don't know as a group."""

    PRIVATE = "private"
    GROUP = "group"


class RemovedReason(StrEnum):
    """Treat a reason that you don't know as `removed`."""

    LEFT = "left"
    REMOVED = "removed"
    DELETED = "deleted"


class ChatBase(SQLModel):
    id: UUID
    type: ChatType = Field(sa_type=text_enum(ChatType))
    title: str | None = Field(default=None, description="The group's own title; null in a private chat.")
    creator_id: UUID | None = Field(default=None, description="null while the chat is private.")
    member_count: int
    message_count: int = Field(default=0, sa_type=Counter, description="The seq of the newest message, deleted or not.")
    version: int = Field(default=1, sa_type=Counter, description="The counter of shared changes.")
    created_at: datetime
    updated_at: datetime = Field(description="When it was created or the newest message was sent.")


class Chat(ChatBase, table=True):
    __table_args__ = (
        # One private chat for each pair of users. A chat that became a group has no pair.
        Index("chat_pair_key", "low_id", "high_id", unique=True, postgresql_where="low_id IS NOT NULL"),
        Index("chat_high_id_idx", "high_id", postgresql_where="high_id IS NOT NULL"),
        Index("chat_client_id_key", "creator_id", "client_id", unique=True, postgresql_where="client_id IS NOT NULL"),
        Index("chat_founding_key_key", "founding_key", unique=True, postgresql_where="founding_key IS NOT NULL"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    low_id: UUID | None = None
    high_id: UUID | None = None
    client_id: UUID | None = None
    # Made of the founder and the client_id, as another may be the creator by now.
    founding_key: UUID | None = None
    content_hash: bytes | None = None
    changed_at: datetime
    deleted_at: datetime | None = None
    # `avatar_key` would be ambiguous beside that of a user, in a statement of the former release.
    picture_key: str | None = None
    description: str | None = None
    # null: the newest message, as it is after each send.
    last_user_seq: int | None = Field(default=None, sa_type=Counter)


class Membership(SQLModel, table=True):
    """A user in a chat. `version` and `joined_version` are the chat's; `mine_version` counts the personal changes."""

    __table_args__ = (Index("membership_user_id_idx", "user_id", "chat_id"),)

    chat_id: UUID = Field(primary_key=True, foreign_key="chat.id", ondelete="CASCADE")
    user_id: UUID = Field(primary_key=True, foreign_key="user.id", ondelete="CASCADE")
    version: int = Field(sa_type=Counter)
    joined_version: int = Field(sa_type=Counter)
    joined_at: datetime
    removed_at: datetime | None = None
    removed_reason: RemovedReason | None = Field(default=None, sa_type=text_enum(RemovedReason))
    changed_at: datetime
    title: str | None = None
    pinned_at: datetime | None = None
    visible_from_seq: int = Field(default=1, sa_type=Counter)
    last_read_seq: int = Field(default=0, sa_type=Counter)
    mine_version: int = Field(default=1, sa_type=Counter)
    muted_until: datetime | None = None
    archived_at: datetime | None = None
    marked_unread: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    draft: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    hidden: bool = Field(default=False, sa_column_kwargs={"server_default": false()})


class DraftUpdate(Input):
    text: Annotated[str, StringConstraints(max_length=LIMITS["draft_length"], pattern=NO_NUL)]
    reply_to: Seq | None = Field(default=None, description="The seq of the message that it will answer.")


class DraftRead(SQLModel):
    text: str
    reply_to: int | None
    updated_at: datetime


class Mine(SQLModel):
    """The personal part of a chat; nobody else sees it."""

    version: int = Field(description="The counter of personal changes.")
    title: str | None = Field(description="Your own title; null: the chat's title, or the peer's name.")
    peer: UserBrief | None = Field(description="The other user of a private chat.")
    pinned_at: datetime | None
    last_read_seq: int
    others_read_seq: int = Field(description="The greatest read position of any other member.")
    visible_from_seq: int = Field(description="The first message that you may see.")
    unread_count: int = Field(description="0 while all after the read position are system messages.")
    muted_until: datetime | None = Field(description="A time in the past is the same as null.")
    archived_at: datetime | None
    marked_unread: bool = Field(description="You marked the chat as unread; your next reading or message unmarks it.")
    draft: DraftRead | None = Field(description="What you have begun to write; your next message takes it away.")
    hidden: bool = Field(description="While true and `message_count` < `visible_from_seq`, don't show the chat.")


class ChatMine(Mine):
    chat_id: UUID


class ChatShared(ChatBase):
    """The part of a chat that is the same for all its members."""

    last_message: Preview | None
    last_user_seq: int = Field(default=0, description="The newest message that is no system message; 0: none.")
    avatar: Avatar | None = Field(default=None, description="The picture of a group.")


class ChatRead(ChatShared):
    mine: Mine


class RemovedChat(SQLModel):
    """A chat that you are no longer in: drop what you know of it at or below `version`."""

    chat_id: UUID
    version: int
    reason: RemovedReason


class Unread(SQLModel):
    """Of the chats that are unread or marked, and neither muted, archived nor out of sight."""

    chats: int
    messages: int


class ChatList(SQLModel):
    items: list[ChatRead]
    removed: list[RemovedChat] = Field(description="Chats that you lost since `changed_since`, on the first page.")
    users: list[UserBrief]
    next_cursor: str | None
    sync: str = Field(description="Keep the first page's, not that of `ids`. After a reconnect it is `changed_since`.")
    unread: Unread | None = Field(description="On the first page.")


class MemberRead(SQLModel):
    user_id: UUID
    is_creator: bool
    last_read_seq: int
    joined_at: datetime
    removed_at: datetime | None = Field(default=None, description="Set only in changes and events.")
    version: int


class MemberList(SQLModel):
    items: list[MemberRead]
    users: list[UserBrief]
    version: int = Field(description="Rows that you know above it stay; of the others, remove those that are missing.")


class PrivateChatOpen(Input):
    user_id: UUID


class GroupCreate(Input):
    title: Line
    member_ids: UserIds
    client_id: UUID | None = Field(default=None, description="Made by the client; the same id again is the same group.")


class ChatUpdate(Update):
    one_of = ("title", "muted_until", "archived", "marked_unread", "draft")

    title: Line | None = Field(default=None, description="Your own title for the chat; null removes it.")
    muted_until: Time | None = Field(default=None, description="null or a time in the past: not muted.")
    archived: StrictBool | None = None
    marked_unread: StrictBool | None = None
    draft: DraftUpdate | None = Field(default=None, description="What you have begun to write; null removes it.")
    unset: list[Literal["title", "muted_until", "archived", "marked_unread", "draft"]] = UNSET


class ChatClear(Input):
    hide: StrictBool = Field(default=False, description="Also take the chat out of the list until its next message.")


class MembersAdd(Input):
    user_ids: UserIds
    share_history: StrictBool = Field(default=False, description="They see as much of the history as you do.")
    title: Line | None = Field(default=None, description="The title if this turns a private chat into a group.")


class ActiveChat(Input):
    chat_id: UUID


class ReadUpTo(Input):
    seq: Position
