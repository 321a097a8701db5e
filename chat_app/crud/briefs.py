"""Users as everybody sees them beside a chat or a message."""

from collections.abc import Iterable
from uuid import UUID

from chat_app.database import Db
from chat_app.models.users import UserBrief, brief

_BRIEFS = 'SELECT id, name, avatar_key FROM "user" WHERE id = ANY($1::uuid[]) ORDER BY id'


async def list_briefs(db: Db, user_ids: Iterable[UUID]) -> list[UserBrief]:
    """The users with these ids, in the order of the ids."""
    wanted = set(user_ids)
    return [brief(*row) for row in await db.fetch(_BRIEFS, list(wanted))] if wanted else []
