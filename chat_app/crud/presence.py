"""Who watches whom, and when somebody was seen last."""

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CompoundSelect, union_all
from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from chat_app.db import read_clock
from chat_app.models import Chat, Membership, User


async def list_watchers(session: AsyncSession, user_id: UUID) -> tuple[set[UUID], set[UUID]]:
    """Who is told of this user: the peers of their private chats, and whoever has one of these chats open."""
    chats = await session.exec(
        select(Membership.chat_id).where(Membership.user_id == user_id, col(Membership.removed_at).is_(None))
    )
    return await _private_peers(session, user_id), set(chats)


async def list_peers(session: AsyncSession, user_id: UUID, open_chat_id: UUID | None) -> set[UUID]:
    """Whose presence this user is told of: private peers, and the members of the chat that is open."""
    peers = await _private_peers(session, user_id)
    if open_chat_id is None:
        return peers
    members = await session.exec(
        select(Membership.user_id).where(Membership.chat_id == open_chat_id, col(Membership.removed_at).is_(None))
    )
    return peers | set(members)


async def write_last_seen(session: AsyncSession, user_ids: Collection[UUID]) -> datetime:
    """These users were here until now."""
    now = await read_clock(session)
    # In the order of their ids, as other nodes may write the same.
    locked = select(User.id).where(col(User.id).in_(user_ids)).order_by(col(User.id)).with_for_update()
    await session.exec(update(User).where(col(User.id).in_(locked)).values(last_seen_at=now))
    return now


async def _private_peers(session: AsyncSession, user_id: UUID) -> set[UUID]:
    pairs: CompoundSelect[Any] = union_all(
        select(Chat.high_id).where(Chat.low_id == user_id), select(Chat.low_id).where(Chat.high_id == user_id)
    )
    rows = await (await session.connection()).execute(pairs)
    return set(rows.scalars())
