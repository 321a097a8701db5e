"""The dependencies of routes: a database session that commits before the answer, the actor, shared objects, limits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Annotated, cast
from uuid import UUID

from fastapi import Depends, Path, Query, Request
from fastapi_users.authentication import BearerTransport

from chat_app.auth import LOGIN_PATH, authenticate
from chat_app.components import Components
from chat_app.crud import sessions
from chat_app.database import Transaction
from chat_app.driver import RawConnection
from chat_app.limits import address_of
from chat_app.models.base import BIGGEST, LIMITS, ChatCursor, ReactionCursor, Sync, Time, UserCursor
from chat_app.models.sessions import Actor, Device


def components(request: Request) -> Components:
    """The shared objects of this process."""
    return cast(Components, request.app.state.components)


async def get_node(request: Request) -> Components:
    return components(request)


NodeDep = Annotated[Components, Depends(get_node)]


async def open_session(node: NodeDep) -> AsyncIterator[Transaction]:
    async with node.database.transaction() as db:
        yield db


# Function scope: the commit comes before the answer, so that no 201 is sent for a row that is lost.
SessionDep = Annotated[Transaction, Depends(open_session, scope="function")]


async def open_reading(node: NodeDep) -> AsyncIterator[RawConnection]:
    async with node.database.reading() as db:
        yield db


ReadingDep = Annotated[RawConnection, Depends(open_reading, scope="function")]


async def count_unauthenticated(request: Request, **who: object) -> None:
    """Count this request by address and for each of `who`, together with all other nodes. Raises RateLimited."""
    action, address = request.scope["route"].name, address_of(request.scope)
    await components(request).limits.check_exactly(action, address=address, **who)


async def count_code(request: Request, phone: str) -> None:
    """Count a request for a code. Where the owner was logged in before, others can't use up the owner's requests."""
    network = address_of(request.scope)
    await count_unauthenticated(request, pair=(phone, network))
    who = {} if await _is_familiar(request, phone, sessions.hash_address(phone, network)) else {"phone": phone}
    await components(request).limits.check_exactly(request.scope["route"].name, **who, all=None)


@asynccontextmanager
async def attempt(request: Request, phone: str | None) -> AsyncIterator[Device]:
    """Limit the wrong passwords and codes for a number. The body checks one. Raises RateLimited."""
    await count_unauthenticated(request)
    action, network, limits = request.scope["route"].name, address_of(request.scope), components(request).limits
    device = Device(request.headers.get("user-agent"), sessions.hash_address(phone, network))
    async with limits.attempt(action, "pair", (phone, network)):
        is_familiar = await _is_familiar(request, phone, device.address_hash)
        async with nullcontext() if is_familiar else limits.attempt(action, "phone", phone):
            yield device


async def _is_familiar(request: Request, phone: str | None, address_hash: bytes | None) -> bool:
    async with components(request).database.reading() as db:
        return await sessions.is_familiar(db, phone, address_hash)


bearer = BearerTransport(LOGIN_PATH).scheme


async def authenticated(request: Request, token: str | None) -> Actor:
    """The actor of a request, counted. Raises NotAuthenticated, TokenExpired, SessionRevoked, RateLimited."""
    async with components(request).database.reading() as db:
        actor, _ = await authenticate(db, token)
    components(request).limits.check(request.scope["route"].name, user=actor.id)
    return actor


async def get_actor(request: Request, _scheme: Annotated[str | None, Depends(bearer)]) -> Actor:
    """The actor, authenticated by the route class. The scheme is a parameter for the documents only."""
    return cast(Actor, request.state.actor)


CurrentActor = Annotated[Actor, Depends(get_actor)]

Limit = Annotated[int, Query(ge=1, le=LIMITS["page"], description="How many at most.")]
ChatsAfter = Annotated[ChatCursor | None, Query(description="The `next_cursor` of the page before.")]
ReactionsAfter = Annotated[ReactionCursor | None, Query(description="The `next_cursor` of the page before.")]
UsersAfter = Annotated[UserCursor | None, Query(description="The `next_cursor` of the page before.")]
SyncQuery = Annotated[
    Sync | None, Query(description="A former `sync`: only the chats that changed after it, for all or for you.")
]
ChatIdsQuery = Annotated[
    list[UUID] | None, Query(max_length=LIMITS["page"], description="Only these, on one page; alone or with `limit`.")
]
ArchivedQuery = Annotated[bool | None, Query(description="Only archived chats, or only the others.")]
SeqPath = Annotated[int, Path(ge=1, le=BIGGEST, description="The message's position in the chat.")]
VersionQuery = Annotated[int, Query(ge=0, le=BIGGEST, description="The version of your window.")]
Bound = Annotated[int | None, Query(ge=0, le=BIGGEST)]
TimeBound = Annotated[Time | None, Query(description="The page around the first message of this time or later.")]
ChatIdPath = Annotated[UUID, Path(description="One of your chats.")]
