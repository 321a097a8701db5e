"""Messages: send, read, edit, delete, like, catch up."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from chat_app.api.asker import Asker, AskerRoute
from chat_app.api.deps import (
    CURSOR,
    ChatIdPath,
    CurrentActor,
    Limit,
    OutboxDep,
    ReadingDep,
    SeqPath,
    SeqQuery,
    SessionDep,
    reply,
)
from chat_app.api.problems import responses
from chat_app.crud import history, likes, messages
from chat_app.crud.messages import Draft
from chat_app.errors import (
    AttachmentNotFound,
    AttachmentUsed,
    ChatNotFound,
    ClientIdReused,
    MessageDeleted,
    MessageNotFound,
    NotAuthor,
)
from chat_app.models.base import BIGGEST, UserCursor
from chat_app.models.messages import MessageCreate, MessagePage, MessageRead, MessageUpdate
from chat_app.models.screens import Changes
from chat_app.models.users import UserPage

router = APIRouter(prefix="/chats/{chat_id}", tags=["messages"])
sending = APIRouter(route_class=AskerRoute)

SEND_RESPONSES = responses(ChatNotFound, MessageNotFound, AttachmentNotFound, AttachmentUsed, ClientIdReused)
SEND_RESPONSES[200] = {"model": MessageRead, "description": "It was there already."}


@router.get("/messages", response_model=MessagePage, responses=responses(ChatNotFound))
async def list_messages(
    db: ReadingDep,
    actor: CurrentActor,
    chat_id: ChatIdPath,
    before: SeqQuery = None,
    after: SeqQuery = None,
    around: SeqQuery = None,
    limit: Limit = 50,
) -> Response:
    """A page of the history: before or after a seq, around one, or the newest; bounds are exclusive, one at most."""
    bounds = {"before": before, "after": after, "around": around}
    return reply(await history.list_messages(db, actor, chat_id, **bounds, limit=limit))


@sending.post("/messages", status_code=201, response_model=MessageRead, responses=SEND_RESPONSES)
async def send_message(outbox: OutboxDep, actor: Asker, chat_id: ChatIdPath, data: MessageCreate) -> Response:
    """Send a message; the same `client_id` again answers 200 with the same message.

    Members get `chats_changed`, those who have the chat active also `messages_changed`.
    """
    sent = await outbox.send(Draft(actor, chat_id, data))
    return reply(sent.json, 201 if sent.is_new else 200)


router.include_router(sending)


@router.get("/messages/{seq}", responses=responses(ChatNotFound, MessageNotFound))
async def get_message(db: ReadingDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath) -> MessageRead:
    """One message."""
    return await history.get_message(db, actor, chat_id, seq)


@router.patch("/messages/{seq}", responses=responses(ChatNotFound, MessageNotFound, NotAuthor, MessageDeleted))
async def edit_message(
    db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath, data: MessageUpdate
) -> MessageRead:
    """Change the text of your own message; null takes a caption away. The active chat gets `messages_changed`."""
    return await messages.edit_message(db, actor, chat_id, seq, data)


@router.delete("/messages/{seq}", status_code=204, responses=responses(ChatNotFound, MessageNotFound, NotAuthor))
async def delete_message(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath) -> None:
    """Delete your own message, or anyone's in your group: a tombstone stays. It comes as `messages_changed`."""
    await messages.delete_message(db, actor, chat_id, seq)


@router.put("/messages/{seq}/like", responses=responses(ChatNotFound, MessageNotFound, MessageDeleted))
async def like_message(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath) -> MessageRead:
    """Like a message. The active chat gets `messages_changed`."""
    return await likes.like_message(db, actor, chat_id, seq)


@router.delete("/messages/{seq}/like", responses=responses(ChatNotFound, MessageNotFound))
async def unlike_message(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, seq: SeqPath) -> MessageRead:
    """Take your like back. The active chat gets `messages_changed`."""
    return await likes.unlike_message(db, actor, chat_id, seq)


@router.get("/messages/{seq}/likes", responses=responses(ChatNotFound, MessageNotFound))
async def list_likes(
    db: SessionDep,
    actor: CurrentActor,
    chat_id: ChatIdPath,
    seq: SeqPath,
    cursor: Annotated[UserCursor | None, CURSOR] = None,
    limit: Limit = 50,
) -> UserPage:
    """Who likes a message."""
    return await likes.list_likes(db, actor, chat_id, seq, cursor=cursor, limit=limit)


@router.get("/changes", response_model=Changes, responses=responses(ChatNotFound))
async def list_changes(
    db: ReadingDep,
    actor: CurrentActor,
    chat_id: ChatIdPath,
    since: Annotated[int, Query(ge=0, le=BIGGEST, description="The version of your window.")],
    limit: Limit = 100,
) -> Response:
    """Every message and member that changed after a version: what an open chat missed while it was disconnected."""
    return reply(await history.list_changes(db, actor, chat_id, since=since, limit=limit))
