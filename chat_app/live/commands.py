"""The commands: the HTTP operations over Socket.IO, through the same use cases."""

from typing import Annotated, Any, NamedTuple
from uuid import UUID

from pydantic import Field, StrictBool

from chat_app.crud import chats, history, likes, members, messages
from chat_app.crud.messages import Draft
from chat_app.database import Db
from chat_app.database import Transaction as AsyncSession
from chat_app.errors import NoActiveChat
from chat_app.live.catalog import command
from chat_app.live.connections import Connection
from chat_app.models.base import ChatCursor, Input, Limit, Position, Seq, Sync, UserCursor
from chat_app.models.chats import ChatList, ChatRead, ChatUpdate, GroupCreate, MemberList, MembersAdd, PrivateChatOpen
from chat_app.models.messages import (
    BY_TYPE,
    AttachmentCreate,
    ContactCreate,
    LocationCreate,
    MessagePage,
    MessageRead,
    MessageUpdate,
    TextCreate,
)
from chat_app.models.screens import Changes, OpenChat
from chat_app.models.users import UserPage

CREATED = (201, 200)


class Answer(NamedTuple):
    """Data with another status than 200."""

    status: int
    data: Any


class ChatArgument(Input):
    chat_id: UUID


class OpenChatArgument(Input):
    chat_id: UUID | None = Field(default=None, description="Without it the active chat is meant.")


class MessageArgument(ChatArgument):
    seq: Seq


class ListChats(Input):
    cursor: ChatCursor | None = None
    limit: Limit = 50
    changed_since: Sync | None = None


class ActivateChat(Input):
    chat_id: UUID | None


class ListMessages(OpenChatArgument):
    before: Position | None = None
    after: Position | None = None
    around: Position | None = None
    limit: Limit = 50


class SendText(OpenChatArgument, TextCreate):
    pass


class SendAttachment(OpenChatArgument, AttachmentCreate):
    pass


class SendLocation(OpenChatArgument, LocationCreate):
    pass


class SendContact(OpenChatArgument, ContactCreate):
    pass


SendMessage = Annotated[SendText | SendAttachment | SendLocation | SendContact, *BY_TYPE]


class RenameChat(ChatArgument, ChatUpdate):
    pass


class AddMembers(ChatArgument, MembersAdd):
    pass


class RemoveMember(ChatArgument):
    user_id: UUID


class EditMessage(MessageArgument, MessageUpdate):
    pass


class ListLikes(MessageArgument):
    cursor: UserCursor | None = None
    limit: Limit = 50


class MarkRead(ChatArgument):
    seq: Position


class SetTyping(OpenChatArgument):
    typing: StrictBool


class ListChanges(ChatArgument):
    since: Position
    limit: Limit = 100


def _chat_id(connection: Connection, data: OpenChatArgument) -> UUID:
    chat_id = data.chat_id or connection.active_chat_id
    if chat_id is None:
        raise NoActiveChat
    return chat_id


@command(ListChats, ChatList, reads=True)
async def list_chats(db: Db, connection: Connection, data: ListChats) -> ChatList:
    """Your chats with type, message count and last update: pinned first, then the latest updated."""
    return await chats.list_chats(
        db, connection.actor, cursor=data.cursor, limit=data.limit, changed_since=data.changed_since
    )


@command(GroupCreate, ChatRead, statuses=CREATED)
async def create_group(db: AsyncSession, connection: Connection, data: GroupCreate) -> Answer:
    """Found a group; you are its creator. Every member gets `chats_changed`."""
    chat, is_new = await chats.create_group(db, connection.actor, data)
    return Answer(201 if is_new else 200, chat)


@command(PrivateChatOpen, ChatRead, statuses=CREATED)
async def open_private_chat(db: AsyncSession, connection: Connection, data: PrivateChatOpen) -> Answer:
    """Open the private chat with somebody: 201 if it is new, 200 if it was there. Both get `chats_changed`."""
    chat, is_new = await chats.open_private_chat(db, connection.actor, data.user_id)
    return Answer(201 if is_new else 200, chat)


@command(ActivateChat, OpenChat, statuses=(200, 204))
async def activate_chat(db: AsyncSession, connection: Connection, data: ActivateChat) -> OpenChat | None:
    """Open a chat on this connection: from now on its `messages_changed` and `read_changed` come. null: none (204)."""
    if data.chat_id is None:
        await chats.clear_active(db, connection.actor)
        connection.prepare_chat(None)
        return None
    version = await chats.activate_chat(db, connection.actor, data.chat_id)
    # Subscribed before it reads, so that nothing falls between.
    connection.prepare_chat(data.chat_id, version)
    return await chats.open_chat(db, connection.actor, data.chat_id)


@command(ListMessages, MessagePage, reads=True)
async def list_messages(db: Db, connection: Connection, data: ListMessages) -> MessagePage:
    """A page of the history: before or after a seq, around one, or the newest; bounds are exclusive, one at most."""
    return await history.list_messages(
        db,
        connection.actor,
        _chat_id(connection, data),
        before=data.before,
        after=data.after,
        around=data.around,
        limit=data.limit,
    )


@command(SendMessage, MessageRead, statuses=CREATED, is_draft=True)
def send_message(connection: Connection, data: SendText | SendAttachment | SendLocation | SendContact) -> Draft:
    """Send a message; the same `client_id` again answers 200 with the same message.

    Members get `chats_changed`, those who have the chat active also `messages_changed`.
    """
    return Draft(connection.actor, _chat_id(connection, data), data)


@command(ChatArgument, ChatRead, reads=True)
async def get_chat(db: Db, connection: Connection, data: ChatArgument) -> ChatRead:
    """One of your chats."""
    return await chats.get_chat(db, connection.actor, data.chat_id)


@command(RenameChat, ChatRead)
async def rename_chat(db: AsyncSession, connection: Connection, data: RenameChat) -> ChatRead:
    """Give a chat your own title, which nobody else sees; null takes it back. You get `chats_changed`."""
    return await chats.rename_chat(db, connection.actor, data.chat_id, data.title)


@command(ChatArgument, ChatRead)
async def pin_chat(db: AsyncSession, connection: Connection, data: ChatArgument) -> ChatRead:
    """Keep a chat on top of your list. You get `chats_changed`."""
    return await chats.pin_chat(db, connection.actor, data.chat_id)


@command(ChatArgument, ChatRead)
async def unpin_chat(db: AsyncSession, connection: Connection, data: ChatArgument) -> ChatRead:
    """Let a pinned chat go back to its place. You get `chats_changed`."""
    return await chats.unpin_chat(db, connection.actor, data.chat_id)


@command(ChatArgument, statuses=(204,))
async def delete_chat(db: AsyncSession, connection: Connection, data: ChatArgument) -> None:
    """Delete your own group for everybody. Every member gets `chats_changed` with it in `removed`."""
    await chats.delete_chat(db, connection.actor, data.chat_id)


@command(ChatArgument, statuses=(204,))
async def leave_chat(db: AsyncSession, connection: Connection, data: ChatArgument) -> None:
    """Leave a group. Its creator can only delete it. You get `chats_changed` with it in `removed`."""
    await members.leave_chat(db, connection.actor, data.chat_id)


@command(ChatArgument, MemberList, reads=True)
async def list_members(db: Db, connection: Connection, data: ChatArgument) -> MemberList:
    """Everybody who is in the chat, in the order of joining."""
    return await members.list_members(db, connection.actor, data.chat_id)


@command(AddMembers, ChatRead)
async def add_members(db: AsyncSession, connection: Connection, data: AddMembers) -> ChatRead:
    """Add people; a private chat becomes a group with you as its creator. Everybody gets `chats_changed`."""
    return await members.add_members(db, connection.actor, data.chat_id, data)


@command(RemoveMember, statuses=(204,))
async def remove_member(db: AsyncSession, connection: Connection, data: RemoveMember) -> None:
    """Remove somebody from your group. They get `chats_changed` with the chat in `removed`, and nothing after it."""
    await members.remove_member(db, connection.actor, data.chat_id, data.user_id)


@command(EditMessage, MessageRead)
async def edit_message(db: AsyncSession, connection: Connection, data: EditMessage) -> MessageRead:
    """Change the text of your own message; null takes a caption away. The active chat gets `messages_changed`."""
    return await messages.edit_message(db, connection.actor, data.chat_id, data.seq, data)


@command(MessageArgument, statuses=(204,))
async def delete_message(db: AsyncSession, connection: Connection, data: MessageArgument) -> None:
    """Delete your own message, or anyone's in your group: a tombstone stays. It comes as `messages_changed`."""
    await messages.delete_message(db, connection.actor, data.chat_id, data.seq)


@command(MessageArgument, MessageRead, reads=True)
async def get_message(db: Db, connection: Connection, data: MessageArgument) -> MessageRead:
    """One message."""
    return await history.get_message(db, connection.actor, data.chat_id, data.seq)


@command(MessageArgument, MessageRead)
async def like_message(db: AsyncSession, connection: Connection, data: MessageArgument) -> MessageRead:
    """Like a message. The active chat gets `messages_changed`."""
    return await likes.like_message(db, connection.actor, data.chat_id, data.seq)


@command(MessageArgument, MessageRead)
async def unlike_message(db: AsyncSession, connection: Connection, data: MessageArgument) -> MessageRead:
    """Take your like back. The active chat gets `messages_changed`."""
    return await likes.unlike_message(db, connection.actor, data.chat_id, data.seq)


@command(ListLikes, UserPage)
async def list_likes(db: AsyncSession, connection: Connection, data: ListLikes) -> UserPage:
    """Who likes a message."""
    return await likes.list_likes(db, connection.actor, data.chat_id, data.seq, cursor=data.cursor, limit=data.limit)


@command(MarkRead, ChatRead)
async def mark_read(db: AsyncSession, connection: Connection, data: MarkRead) -> ChatRead:
    """Say up to where you have read; never moves back. You get `chats_changed`, the active chat `read_changed`."""
    return await chats.mark_read(db, connection.actor, data.chat_id, data.seq)


@command(ListChanges, Changes, reads=True)
async def list_changes(db: Db, connection: Connection, data: ListChanges) -> Changes:
    """Every message and member that changed after a version: what an open chat missed while it was disconnected."""
    return await history.list_changes(db, connection.actor, data.chat_id, since=data.since, limit=data.limit)


@command(SetTyping, statuses=(204,))
async def set_typing(db: AsyncSession, connection: Connection, data: SetTyping) -> None:
    """Say that you type: repeat it every 3 seconds. Others who have the chat active get `typing_changed`."""
    await chats.set_typing(db, connection.actor, _chat_id(connection, data), data.typing)
