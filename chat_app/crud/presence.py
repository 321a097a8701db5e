"""Who is online, the users who get the presence and the profile of a user, and when a user was seen last."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from sqlmodel import col, select, update

from chat_app.crud.access import audience_of
from chat_app.database import Db, Transaction, read_clock
from chat_app.models import User


def is_online(db: Db, user_id: UUID) -> bool:
    """Whether the user is connected to any node, as far as this one knows, or was a moment ago.

    No statement: an answer that has it of several users takes it after all that it reads.
    """
    return user_id in db.info["online"]


_PRIVATE_PEERS = "SELECT high_id FROM chat WHERE low_id = $1 UNION ALL SELECT low_id FROM chat WHERE high_id = $1"
_WATCHERS = f"""
SELECT last_seen_at, ARRAY({_PRIVATE_PEERS}), ARRAY(
    SELECT chat_id FROM membership WHERE user_id = $1 AND removed_at IS NULL
) FROM "user" WHERE id = $1
"""


async def read_watchers(db: Db, user_id: UUID) -> tuple[datetime | None, list[UUID], list[UUID]]:
    """When this user was seen last, the peers of the user's private chats, and the chats with the user as a member."""
    ((last_seen_at, peers, chats),) = await db.fetch(_WATCHERS, user_id)
    return last_seen_at, peers, chats


async def list_peers(db: Db, user_id: UUID, open_chat_id: UUID | None) -> set[UUID]:
    """Users whose presence this one gets: private peers, and the other members of the open chat, if it is theirs."""
    peers = {peer for (peer,) in await db.fetch(_PRIVATE_PEERS, user_id)}
    if open_chat_id:
        members = await audience_of(db, open_chat_id)
        peers |= members.keys() - {user_id} if user_id in members else set()
    return peers


async def write_last_seen(db: Transaction, user_ids: Collection[UUID]) -> datetime:
    """Write that these users were online until now. Returns that time."""
    now = await read_clock(db)
    # In the order of their ids, as other nodes may write the same.
    locked = select(User.id).where(col(User.id).in_(user_ids)).order_by(col(User.id)).with_for_update()
    await db.exec(update(User).where(col(User.id).in_(locked)).values(last_seen_at=now))
    return now
