"""Profiles: your own and those of others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import StringConstraints

from chat_app.api.deps import CurrentActor, Limit, NodeDep, SessionDep
from chat_app.api.operations import Protected
from chat_app.api.problems import responses
from chat_app.components import Components
from chat_app.crud import avatars, users
from chat_app.database import Transaction
from chat_app.errors import BadImage, UsernameTaken, UserNotFound
from chat_app.models.base import LIMITS, NO_NUL
from chat_app.models.sessions import Actor
from chat_app.models.users import (
    Avatar,
    AvatarUpload,
    LookedUpList,
    UserList,
    UserLookup,
    UserMe,
    UserRead,
    UsersLookup,
    UserUpdate,
)

router = APIRouter(prefix="/users", tags=["users"], route_class=Protected)

NameQuery = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=NO_NUL)]


@router.get("/me")
async def get_me(db: SessionDep, actor: CurrentActor) -> UserMe:
    """Get your own account. No other answer contains a phone number."""
    return await users.get_me(db, actor)


@asynccontextmanager
async def changing_profile(node: Components, actor: Actor) -> AsyncIterator[Transaction]:
    """A transaction that counts a new name or picture. Raises RateLimited."""
    async with node.database.transaction() as db:
        former = await users.get_me(db, actor)
        yield db
        me = await users.get_me(db, actor)
        if (me.name, me.avatar) != (former.name, former.avatar):
            node.limits.check("update_me", profile=actor.id)


@router.patch("/me", responses=responses(UsernameTaken))
async def update_me(node: NodeDep, actor: CurrentActor, data: UserUpdate) -> UserMe:
    """Change your profile. Fields that you don't send stay.

    A new name goes to your private peers as `chats_changed`.
    """
    async with changing_profile(node, actor) as db:
        return await users.update_me(db, actor, data)


@router.get("")
async def search_users(
    db: SessionDep,
    actor: CurrentActor,
    query: Annotated[NameQuery | None, Query(description="The beginning of a name or username.")] = None,
    ids: Annotated[list[UUID] | None, Query(max_length=LIMITS["page"], description="Exactly these users.")] = None,
    limit: Limit = 20,
) -> UserList:
    """Find users by name or username, or get several by id. To find one by phone, see lookup."""
    return UserList(items=await users.search_users(db, query=query, ids=ids, limit=limit))


@router.post("/lookup", responses=responses(UserNotFound))
async def lookup_user(db: SessionDep, actor: CurrentActor, data: UserLookup) -> UserRead:
    """Find a user by phone number: it has to be complete."""
    return await users.lookup_user(db, data)


@router.post("/lookup/many")
async def lookup_users(db: SessionDep, actor: CurrentActor, data: UsersLookup) -> LookedUpList:
    """Find which of the numbers of an address book have users: at most 100 complete phone numbers."""
    return await users.lookup_users(db, data)


@router.get("/{user_id}", responses=responses(UserNotFound))
async def get_user(db: SessionDep, actor: CurrentActor, user_id: UUID) -> UserRead:
    """Get the public profile of a user."""
    return await users.get_user(db, user_id)


@router.put("/me/avatar", responses=responses(BadImage))
async def set_avatar(node: NodeDep, actor: CurrentActor, data: AvatarUpload) -> Avatar:
    """Set your picture: JPEG, PNG, WebP or GIF, at most 10 MB and 40 megapixels (JPEG: 64).

    A picture that takes more than two seconds to read is refused. Above 12 megapixels it needs a byte for 200 pixels.
    `original` is your picture in the same format, with the same pixels and frames. Of its metadata only the orientation
    and the numbers of the colour profile stay. A picture whose colours need more of its profile is refused. The others
    are squares of 400, 100 and 50 pixels, upright and in sRGB.
    """
    async with avatars.stored_avatar(actor, node.storage, data.image) as key, changing_profile(node, actor) as db:
        return await avatars.set_avatar(db, actor, key)


@router.delete("/me/avatar", status_code=204)
async def delete_avatar(node: NodeDep, actor: CurrentActor) -> None:
    """Remove your picture."""
    async with changing_profile(node, actor) as db:
        await avatars.delete_avatar(db, actor)
