"""The members of a chat."""

from uuid import UUID

from fastapi import APIRouter

from chat_app.api.deps import ChatIdPath, CurrentActor, ReadingDep, SessionDep
from chat_app.api.operations import Operation
from chat_app.api.problems import responses
from chat_app.crud import members
from chat_app.errors import (
    CreatorCannotLeave,
    GroupFull,
    MemberNotFound,
    NotAGroup,
    NotCreator,
    UserNotFound,
)
from chat_app.models.chats import ChatRead, MemberList, MembersAdd

router = APIRouter(prefix="/chats/{chat_id}", tags=["members"], route_class=Operation)


@router.get("/members")
async def list_members(db: ReadingDep, actor: CurrentActor, chat_id: ChatIdPath) -> MemberList:
    """List the members of a chat: in the order of joining."""
    return await members.list_members(db, actor, chat_id)


@router.post("/members", responses=responses(UserNotFound, GroupFull))
async def add_members(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, data: MembersAdd) -> ChatRead:
    """Add users to a chat. A private chat becomes a group with you as its creator. Present members stay as they are.

    Every member gets `chats_changed`, those who have the chat active `messages_changed` with a system message.
    """
    return await members.add_members(db, actor, chat_id, data)


@router.delete("/members/{user_id}", responses=responses(MemberNotFound, NotCreator, NotAGroup, CreatorCannotLeave))
async def remove_member(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, user_id: UUID) -> None:
    """Remove a user from your group. The user gets `chats_changed` with the chat in `removed`, and nothing after it."""
    await members.remove_member(db, actor, chat_id, user_id)


@router.post("/leave", responses=responses(NotAGroup, CreatorCannotLeave))
async def leave_chat(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath) -> None:
    """Leave a group. Its creator can only delete it. You get `chats_changed` with it in `removed`."""
    await members.leave_chat(db, actor, chat_id)
