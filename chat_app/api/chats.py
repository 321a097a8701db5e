"""The list of chats, opening and creating them, and what is personal about each."""

from fastapi import APIRouter

from chat_app.api.deps import (
    ArchivedQuery,
    ChatIdPath,
    ChatIdsQuery,
    ChatsAfter,
    CurrentActor,
    Limit,
    ReadingDep,
    SessionDep,
    SyncQuery,
)
from chat_app.api.operations import Operation
from chat_app.api.problems import responses
from chat_app.crud import chats, mine
from chat_app.errors import ClientIdReused, GroupFull, MessageNotFound, NotAGroup, NotCreator, UserNotFound
from chat_app.models.answers import Created
from chat_app.models.chats import ChatClear, ChatList, ChatRead, ChatUpdate, GroupCreate, PrivateChatOpen

router = APIRouter(prefix="/chats", tags=["chats"], route_class=Operation)


@router.get("")
async def list_chats(
    db: ReadingDep,
    actor: CurrentActor,
    cursor: ChatsAfter = None,
    limit: Limit = 50,
    changed_since: SyncQuery = None,
    ids: ChatIdsQuery = None,
    archived: ArchivedQuery = None,
) -> ChatList:
    """List your chats: pinned ones first, the latest pin on top, then the latest updated."""
    return await chats.list_chats(
        db, actor, cursor=cursor, limit=limit, changed_since=changed_since, ids=ids, archived=archived
    )


@router.post("/private", responses=responses(UserNotFound))
async def open_private_chat(db: SessionDep, actor: CurrentActor, data: PrivateChatOpen) -> Created[ChatRead]:
    """Open the private chat with a user: 201 if it is new, 200 if it was there. Both users get `chats_changed`."""
    return Created(*await chats.open_private_chat(db, actor, data.user_id))


@router.post("/groups", responses=responses(UserNotFound, ClientIdReused, GroupFull))
async def create_group(db: SessionDep, actor: CurrentActor, data: GroupCreate) -> Created[ChatRead]:
    """Create a group; you are its creator. Every member gets `chats_changed`."""
    return Created(*await chats.create_group(db, actor, data))


@router.get("/{chat_id}")
async def get_chat(db: ReadingDep, actor: CurrentActor, chat_id: ChatIdPath) -> ChatRead:
    """Get one of your chats."""
    return await chats.get_chat(db, actor, chat_id)


@router.patch("/{chat_id}", responses=responses(MessageNotFound))
async def update_mine(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, data: ChatUpdate) -> ChatRead:
    """Change what is your own in a chat: title, muting, archive, mark and draft. Fields that you don't send stay.

    You get `chats_changed`. Marking a chat as unread or writing a draft shows a hidden chat again.
    """
    return await mine.update_mine(db, actor, chat_id, data)


@router.delete("/{chat_id}", responses=responses(NotCreator, NotAGroup))
async def delete_chat(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath) -> None:
    """Delete your own group for everybody. Every member gets `chats_changed` with it in `removed`."""
    await chats.delete_chat(db, actor, chat_id)


@router.post("/{chat_id}/clear")
async def clear_chat(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, data: ChatClear) -> ChatRead:
    """Clear your view of a chat: you see later messages only. Nobody else loses any.

    You get `chats_changed`. Those who have the chat active get `read_changed`, and so does the peer of a private chat.
    """
    return await mine.clear_chat(db, actor, chat_id, hide=data.hide)


@router.put("/{chat_id}/pin")
async def pin_chat(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath) -> ChatRead:
    """Pin a chat: it stays on top of your list. You get `chats_changed`."""
    return await chats.pin_chat(db, actor, chat_id)


@router.delete("/{chat_id}/pin")
async def unpin_chat(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath) -> ChatRead:
    """Unpin a chat: it returns to its place. You get `chats_changed`."""
    return await chats.unpin_chat(db, actor, chat_id)
