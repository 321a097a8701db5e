"""Answers that join several models: what a chat screen needs, and what it missed."""

from uuid import UUID

from sqlmodel import Field, SQLModel

from chat_app.models.chats import ChatRead, ChatType, MemberRead
from chat_app.models.messages import MessagePage, MessageRead, MessageShared
from chat_app.models.users import UserBrief


class OpenChat(SQLModel):
    """All that a screen needs, in one call."""

    chat: ChatRead
    page: MessagePage
    members: list[MemberRead]
    users: list[UserBrief]
    pinned: list[MessageShared] = Field(description="As of `list_pinned_messages`, with the version of the page.")
    online: list[UUID] = Field(description="The members who are online. `presence_changed` follows.")
    description: str | None = Field(description="Of a group; `group_changed` tells of another.")


class Changes(SQLModel):
    """What changed in a chat after `since`: state, not a log, so that applying it twice is harmless."""

    since: int
    version: int = Field(description="What to pass as the next `since`.")
    message_count: int
    messages: list[MessageRead]
    members: list[MemberRead]
    users: list[UserBrief]
    replied: list[MessageRead] = Field(description="Quoted messages that are not among the messages.")
    has_more: bool
    reset: bool = Field(description="true: drop the window and read the newest page instead.")


class ChatBrief(SQLModel):
    """A chat as a list of found messages names it: by your own title, else by its title, else by its peer."""

    id: UUID
    type: ChatType
    title: str | None
    peer: UserBrief | None
    mine_title: str | None


class FoundMessages(SQLModel):
    items: list[MessageRead] = Field(description="The newest first.")
    chats: list[ChatBrief] = Field(description="The chats of these messages.")
    users: list[UserBrief]
    next_cursor: str | None = Field(description="null: these were the last. Otherwise the page may have few items.")
