"""Messages: send, read, edit, delete, like, react, pin, mark as read, catch up."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from chat_app.api.deps import (
    Bound,
    ChatIdPath,
    CurrentActor,
    Limit,
    NodeDep,
    ReactionsAfter,
    ReadingDep,
    SeqPath,
    SessionDep,
    TimeBound,
    UsersAfter,
    VersionQuery,
)
from chat_app.api.operations import Operation
from chat_app.api.problems import responses
from chat_app.crud import chats, history, likes, messages, pins, reactions
from chat_app.crud.messages import Draft
from chat_app.errors import (
    AttachmentNotFound,
    AttachmentUsed,
    ClientIdReused,
    MessageDeleted,
    MessageNotFound,
    NotAuthor,
    TooManyPinned,
    TooManyReactions,
)
from chat_app.models.answers import Created
from chat_app.models.chats import ChatRead, ReadUpTo
from chat_app.models.messages import MessageCreate, MessagePage, MessageRead, MessageUpdate, PinnedList
from chat_app.models.reactions import Emoji, ReactionCreate, ReactionPage
from chat_app.models.screens import Changes
from chat_app.models.users import UserPage

router = APIRouter(prefix="/chats/{chat_id}", tags=["messages"], route_class=Operation)

SEND_ERRORS = (MessageNotFound, AttachmentNotFound, AttachmentUsed, ClientIdReused, MessageDeleted)
# Without `Body` FastAPI would put the union into each route instead of referring to its name.
NewMessage = Annotated[MessageCreate, Body()]
EmojiQuery = Annotated[Emoji, Query()]


@router.get("/messages")
async def list_messages(
    db: ReadingDep,
    actor: CurrentActor,
    chat_id: ChatIdPath,
    before: Bound = None,
    after: Bound = None,
    around: Bound = None,
    around_time: TimeBound = None,
    limit: Limit = 50,
) -> MessagePage:
    """List messages of a chat: before or after a seq, around one or a time, or the newest. Bounds are exclusive, at
    most one.
    """
    bounds: Any = {"before": before, "after": after, "around": around, "around_time": around_time}
    return await history.list_messages(db, actor, chat_id, **bounds, limit=limit)


@router.post("/messages", responses=responses(*SEND_ERRORS))
async def send_message(
    node: NodeDep, actor: CurrentActor, chat_id: ChatIdPath, data: NewMessage
) -> Created[MessageRead]:
    """Send a message; the same `client_id` again answers 200 with the same message. Without a `client_id` don't repeat
    a request whose answer was lost: the message would be sent twice.

    Members get `chats_changed`, those who have the chat active also `messages_changed`.
    """
    return Created[Any](*await node.outbox.send(Draft(actor, chat_id, data)))


@router.get("/messages/{seq}")
async def get_message(db: ReadingDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath) -> MessageRead:
    """Get one message."""
    return await history.get_message(db, actor, chat_id, seq)


@router.patch("/messages/{seq}", responses=responses(NotAuthor, MessageDeleted))
async def edit_message(
    db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath, data: MessageUpdate
) -> MessageRead:
    """Change the text of your own message; null removes a caption. The active chat gets `messages_changed`."""
    return await messages.edit_message(db, actor, chat_id, seq, data)


@router.delete("/messages/{seq}", responses=responses(NotAuthor))
async def delete_message(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath) -> None:
    """Delete your own message, or any in your group; a tombstone stays. The active chat gets `messages_changed`."""
    await messages.delete_message(db, actor, chat_id, seq)


@router.put("/messages/{seq}/like", responses=responses(MessageDeleted))
async def like_message(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath) -> MessageRead:
    """Like a message. The active chat gets `messages_changed`."""
    return await likes.like_message(db, actor, chat_id, seq)


@router.delete("/messages/{seq}/like")
async def unlike_message(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath) -> MessageRead:
    """Remove your like. The active chat gets `messages_changed`."""
    return await likes.unlike_message(db, actor, chat_id, seq)


@router.get("/messages/{seq}/likes")
async def list_likes(
    db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath, cursor: UsersAfter = None, limit: Limit = 50
) -> UserPage:
    """List the users who like a message, in the order of liking."""
    return await likes.list_likes(db, actor, chat_id, seq, cursor=cursor, limit=limit)


@router.put("/messages/{seq}/reactions", responses=responses(MessageDeleted, TooManyReactions))
async def react(
    db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath, data: ReactionCreate
) -> MessageRead:
    """Add an emoji to a message, beside the like. The active chat gets `messages_changed`."""
    return await reactions.react(db, actor, chat_id, seq, data.emoji)


@router.delete("/messages/{seq}/reactions")
async def unreact(
    db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath, emoji: EmojiQuery
) -> MessageRead:
    """Remove your emoji from a message. The active chat gets `messages_changed`."""
    return await reactions.unreact(db, actor, chat_id, seq, emoji)


@router.get("/messages/{seq}/reactions")
async def list_reactions(
    db: ReadingDep,
    actor: CurrentActor,
    chat_id: ChatIdPath,
    seq: SeqPath,
    emoji: EmojiQuery | None = None,
    cursor: ReactionsAfter = None,
    limit: Limit = 50,
) -> ReactionPage:
    """List the reactions to a message, in the order of reacting."""
    return await reactions.list_reactions(db, actor, chat_id, seq, emoji=emoji, cursor=cursor, limit=limit)


@router.put("/messages/{seq}/pin", responses=responses(MessageDeleted, TooManyPinned))
async def pin_message(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath) -> MessageRead:
    """Pin a message for all members; every member may. The active chat gets `messages_changed`."""
    return await pins.pin_message(db, actor, chat_id, seq)


@router.delete("/messages/{seq}/pin")
async def unpin_message(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath) -> MessageRead:
    """Unpin a message; every member may. The active chat gets `messages_changed`."""
    return await pins.unpin_message(db, actor, chat_id, seq)


@router.get("/pinned")
async def list_pinned_messages(db: ReadingDep, actor: CurrentActor, chat_id: ChatIdPath) -> PinnedList:
    """List the pinned messages that you see, the last pinned first. Call it after a newest page that replaces yours."""
    return await history.list_pinned_messages(db, actor, chat_id)


@router.post("/read")
async def mark_read(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, data: ReadUpTo) -> ChatRead:
    """Mark messages as read up to a seq; the position never moves back.

    You get `chats_changed`, those who have the chat active `read_changed`, and so does the peer of a private chat.
    """
    return await chats.mark_read(db, actor, chat_id, data.seq)


@router.get("/changes")
async def list_changes(
    db: ReadingDep, actor: CurrentActor, chat_id: ChatIdPath, since: VersionQuery, limit: Limit = 100
) -> Changes:
    """List what changed in a chat after a version: messages and members, for an open chat that was disconnected."""
    return await history.list_changes(db, actor, chat_id, since=since, limit=limit)
