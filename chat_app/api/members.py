"""The members of a chat."""

from uuid import UUID

from fastapi import APIRouter

from chat_app.api.deps import ChatIdPath, CurrentActor, ReadingDep, SessionDep
from chat_app.api.problems import responses
from chat_app.crud import members
from chat_app.errors import (
    ChatNotFound,
    CreatorCannotLeave,
    GroupFull,
    MemberNotFound,
    NotAGroup,
    NotCreator,
    UserNotFound,
)
from chat_app.models.chats import ChatRead, MemberList, MembersAdd

router = APIRouter(prefix="/chats/{chat_id}", tags=["members"])


@router.get("/members", responses=responses(ChatNotFound))
async def list_members(db: ReadingDep, actor: CurrentActor, chat_id: ChatIdPath) -> MemberList:
    """Everybody who is in the chat, in the order of joining."""
    return await members.list_members(db, actor, chat_id)


@router.post("/members", responses=responses(ChatNotFound, UserNotFound, GroupFull))
async def add_members(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, data: MembersAdd) -> ChatRead:
    """Add people. A private chat becomes a group with you as its creator; those who are in it already stay as they are.

    Everybody gets `chats_changed`, those who have the chat active `messages_changed` with a system message.
    """
    return await members.add_members(db, actor, chat_id, data)


@router.delete(
    "/members/{user_id}",
    status_code=204,
    responses=responses(ChatNotFound, MemberNotFound, NotCreator, NotAGroup, CreatorCannotLeave),
)
async def remove_member(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, user_id: UUID) -> None:
    """Remove somebody from your group. They get `chats_changed` with the chat in `removed`, and nothing after it."""
    await members.remove_member(db, actor, chat_id, user_id)


@router.post("/leave", status_code=204, responses=responses(ChatNotFound, NotAGroup, CreatorCannotLeave))
async def leave_chat(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath) -> None:
    """Leave a group. Its creator can only delete it."""
    await members.leave_chat(db, actor, chat_id)
