"""Profiles: one's own and those of others."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import StringConstraints

from chat_app.api.deps import CurrentActor, Limit, SessionDep
from chat_app.api.problems import responses
from chat_app.crud import users
from chat_app.errors import UsernameTaken, UserNotFound
from chat_app.models.base import NO_NUL
from chat_app.models.users import UserList, UserLookup, UserMe, UserRead, UserUpdate

router = APIRouter(prefix="/users", tags=["users"])

NameQuery = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=NO_NUL)]


@router.get("/me")
async def get_me(session: SessionDep, actor: CurrentActor) -> UserMe:
    """Your own account. Only here a phone number is told."""
    return await users.get_me(session, actor)


@router.patch("/me", responses=responses(UsernameTaken))
async def update_me(session: SessionDep, actor: CurrentActor, data: UserUpdate) -> UserMe:
    """Change your profile: only what is sent is changed."""
    return await users.update_me(session, actor, data)


@router.get("")
async def search_users(
    session: SessionDep,
    actor: CurrentActor,
    query: Annotated[NameQuery | None, Query(description="How a name or username begins.")] = None,
    ids: Annotated[list[UUID] | None, Query(max_length=100, description="Exactly these users.")] = None,
    limit: Limit = 20,
) -> UserList:
    """Find people by name or username, or get several by id. Never by phone: see lookup."""
    return UserList(items=await users.search_users(session, query=query, ids=ids, limit=limit))


@router.post("/lookup", responses=responses(UserNotFound))
async def lookup_user(session: SessionDep, actor: CurrentActor, data: UserLookup) -> UserRead:
    """Who has this phone number, if you know it whole."""
    return await users.lookup_user(session, data)


@router.get("/{user_id}", responses=responses(UserNotFound))
async def get_user(session: SessionDep, actor: CurrentActor, user_id: UUID) -> UserRead:
    """Somebody's public profile."""
    return await users.get_user(session, user_id)
