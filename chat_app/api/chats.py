"""The list of one's chats, opening and founding them, what is personal about each, and the active one."""

from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from chat_app.api.asker import Asker, AskerRoute
from chat_app.api.deps import (
    CURSOR,
    ChatIdPath,
    CurrentActor,
    DatabaseDep,
    Limit,
    OutboxDep,
    ReadingDep,
    SeqQuery,
    SessionDep,
    reply,
)
from chat_app.api.messages import SEND_RESPONSES
from chat_app.api.problems import responses
from chat_app.crud import chats, history
from chat_app.crud.messages import Draft
from chat_app.errors import (
    ChatNotFound,
    ClientIdReused,
    GroupFull,
    NoActiveChat,
    NotAGroup,
    NotCreator,
    Unavailable,
    UserNotFound,
)
from chat_app.models.base import ChatCursor, Sync
from chat_app.models.chats import ActiveChat, ChatList, ChatRead, ChatUpdate, GroupCreate, PrivateChatOpen, ReadUpTo
from chat_app.models.messages import MessageCreate, MessagePage, MessageRead
from chat_app.models.screens import OpenChat

router = APIRouter(prefix="/chats", tags=["chats"])
waiting = APIRouter(route_class=AskerRoute)

FOUND: dict[int | str, dict[str, Any]] = {200: {"model": ChatRead, "description": "It was there already."}}


@router.get("", response_model=ChatList)
async def list_chats(
    db: ReadingDep,
    actor: CurrentActor,
    cursor: Annotated[ChatCursor | None, CURSOR] = None,
    limit: Limit = 50,
    changed_since: Annotated[
        Sync | None, Query(description="A former `sync`: only what changed after it, for all or for you.")
    ] = None,
) -> Response:
    """Your chats: pinned first, the latest pin on top, then the latest updated."""
    return reply(await chats.list_chats(db, actor, cursor=cursor, limit=limit, changed_since=changed_since))


@router.post("/private", status_code=201, responses=FOUND | responses(UserNotFound))
async def open_private_chat(db: SessionDep, actor: CurrentActor, data: PrivateChatOpen, response: Response) -> ChatRead:
    """Open the private chat with somebody: 201 if it is new, 200 if it was there. Both get `chats_changed`."""
    chat, is_new = await chats.open_private_chat(db, actor, data.user_id)
    response.status_code = 201 if is_new else 200
    return chat


@router.post("/groups", status_code=201, responses=FOUND | responses(UserNotFound, ClientIdReused, GroupFull))
async def create_group(db: SessionDep, actor: CurrentActor, data: GroupCreate, response: Response) -> ChatRead:
    """Found a group; you are its creator. Every member gets `chats_changed`."""
    chat, is_new = await chats.create_group(db, actor, data)
    response.status_code = 201 if is_new else 200
    return chat


@router.get("/active", responses=responses(NoActiveChat))
async def get_active_chat(db: SessionDep, actor: CurrentActor) -> OpenChat:
    """The active chat of your session, with all that a screen needs."""
    return await chats.open_chat(db, actor, await chats.active_chat(db, actor))


@waiting.put("/active", responses=responses(ChatNotFound))
async def activate_chat(database: DatabaseDep, actor: Asker, data: ActiveChat) -> OpenChat:
    """Make a chat the active one of your session. Connections that never set their own follow."""
    async with database.transaction() as db:
        version = await chats.activate_chat(db, actor, data.chat_id)
        screen = await chats.open_chat(db, actor, data.chat_id)
    # Read again once the connections follow, so that nothing falls between; without a database, that was all.
    with suppress(Unavailable):
        async with database.reading() as reading:
            screen = await chats.open_chat(reading, actor, data.chat_id)
            await chats.check_is_open(reading, actor, data.chat_id, version)
    return screen


@router.delete("/active", status_code=204)
async def clear_active_chat(db: SessionDep, actor: CurrentActor) -> None:
    """No chat is active any more."""
    await chats.clear_active(db, actor)


@router.get("/active/messages", tags=["messages"], responses=responses(NoActiveChat))
async def list_active_messages(
    db: SessionDep,
    actor: CurrentActor,
    before: SeqQuery = None,
    after: SeqQuery = None,
    around: SeqQuery = None,
    limit: Limit = 50,
) -> MessagePage:
    """Messages of the active chat; otherwise as `list_messages`."""
    chat_id = await chats.active_chat(db, actor)
    return await history.list_messages(db, actor, chat_id, before=before, after=after, around=around, limit=limit)


@waiting.post(
    "/active/messages",
    tags=["messages"],
    status_code=201,
    response_model=MessageRead,
    responses=SEND_RESPONSES | responses(NoActiveChat),
)
async def send_active_message(database: DatabaseDep, outbox: OutboxDep, actor: Asker, data: MessageCreate) -> Response:
    """Send to the active chat; otherwise as `send_message`."""
    async with database.transaction() as db:
        chat_id = await chats.active_chat(db, actor)
    sent = await outbox.send(Draft(actor, chat_id, data))
    return reply(sent.json, 201 if sent.is_new else 200)


router.include_router(waiting)


@router.get("/{chat_id}", responses=responses(ChatNotFound))
async def get_chat(db: ReadingDep, actor: CurrentActor, chat_id: ChatIdPath) -> ChatRead:
    """One of your chats."""
    return await chats.get_chat(db, actor, chat_id)


@router.patch("/{chat_id}", responses=responses(ChatNotFound))
async def rename_chat(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, data: ChatUpdate) -> ChatRead:
    """Give a chat your own title, which nobody else sees; null takes it back. You get `chats_changed`."""
    return await chats.rename_chat(db, actor, chat_id, data.title)


@router.delete("/{chat_id}", status_code=204, responses=responses(ChatNotFound, NotCreator, NotAGroup))
async def delete_chat(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath) -> None:
    """Delete your own group for everybody. Every member gets `chats_changed` with it in `removed`."""
    await chats.delete_chat(db, actor, chat_id)


@router.put("/{chat_id}/pin", responses=responses(ChatNotFound))
async def pin_chat(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath) -> ChatRead:
    """Keep a chat on top of your list. You get `chats_changed`."""
    return await chats.pin_chat(db, actor, chat_id)


@router.delete("/{chat_id}/pin", responses=responses(ChatNotFound))
async def unpin_chat(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath) -> ChatRead:
    """Let a pinned chat go back to its place. You get `chats_changed`."""
    return await chats.unpin_chat(db, actor, chat_id)


@router.post("/{chat_id}/read", tags=["messages"], responses=responses(ChatNotFound))
async def mark_read(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, data: ReadUpTo) -> ChatRead:
    """Say up to where you have read; never moves back. You get `chats_changed`, the active chat `read_changed`."""
    return await chats.mark_read(db, actor, chat_id, data.seq)
