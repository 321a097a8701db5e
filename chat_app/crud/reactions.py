"""Reactions: a set of emojis of users for each message, counted in the message."""

from typing import Any
from uuid import UUID

from sqlmodel import select

from chat_app.crud import access, recording
from chat_app.crud.history import get_message, read_message
from chat_app.database import Db, Transaction
from chat_app.errors import TooManyReactions
from chat_app.models import Chat, Message, Reaction
from chat_app.models.base import LIMITS
from chat_app.models.messages import MessageRead
from chat_app.models.reactions import ReactionPage, ReactionRead
from chat_app.models.sessions import Actor
from chat_app.models.users import brief
from chat_app.models.wire_json import construct


async def react(db: Transaction, actor: Actor, chat_id: UUID, seq: int, emoji: str) -> MessageRead:
    """Put an emoji on a message; again it changes nothing. Raises MessageDeleted, TooManyReactions."""
    chat, message = await access.lock_message(db, actor, chat_id, seq, access.check_is_not_deleted)
    key: dict[str, Any] = {"chat_id": chat_id, "seq": seq, "user_id": actor.id}
    own = set(await db.exec(select(Reaction.emoji).filter_by(**key)))
    if emoji not in own:
        kinds = {each["emoji"] for each in message.reactions or ()}
        if len(own) >= LIMITS["own_reactions"] or len(kinds | {emoji}) > LIMITS["reaction_kinds"]:
            raise TooManyReactions
        db.add(Reaction(**key, emoji=emoji, version=chat.version + 1))
        await _change(db, actor, chat, message)
    return await read_message(db, actor.id, chat_id, seq)


async def unreact(db: Transaction, actor: Actor, chat_id: UUID, seq: int, emoji: str) -> MessageRead:
    """Take an emoji back; without it nothing changes."""
    chat, message = await access.lock_message(db, actor, chat_id, seq, None)
    reaction = await db.get(Reaction, (chat_id, seq, actor.id, emoji))
    if reaction:
        await db.delete(reaction)
        await _change(db, actor, chat, message)
    return await read_message(db, actor.id, chat_id, seq)


_COUNT = """
UPDATE message SET reactions = (
    SELECT jsonb_agg(jsonb_build_object('emoji', emoji, 'count', count) ORDER BY count DESC, emoji COLLATE "C")
    FROM (SELECT emoji, count(*) FROM reaction WHERE chat_id = $1 AND seq = $2 GROUP BY emoji) AS counted
) WHERE chat_id = $1 AND seq = $2
"""


async def _change(db: Transaction, actor: Actor, chat: Chat, message: Message) -> None:
    await recording.take_version(db, chat)
    await db.fetch(_COUNT, chat.id, message.seq)
    await recording.record_message(db, chat, message, liker=actor)


_REACTIONS = """
SELECT version, emoji, "user".id, name, avatar_key FROM reaction JOIN "user" ON "user".id = user_id
WHERE chat_id = $1 AND seq = $2 AND emoji = coalesce($3, emoji) AND version > $4 ORDER BY version LIMIT $5
"""


async def list_reactions(
    db: Db, actor: Actor, chat_id: UUID, seq: int, *, emoji: str | None, cursor: str | None, limit: int
) -> ReactionPage:
    """The reactions to a message, or those of one kind, with their users."""
    await get_message(db, actor, chat_id, seq)
    rows = await db.fetch(_REACTIONS, chat_id, seq, emoji, int(cursor or 0), limit + 1)
    items = [construct(ReactionRead, {"user": brief(*user), "emoji": kind}) for _, kind, *user in rows[:limit]]
    return ReactionPage(items=items, next_cursor=str(rows[limit - 1]["version"]) if len(rows) > limit else None)
