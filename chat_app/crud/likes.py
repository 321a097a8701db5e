"""Likes: a set of users for each message."""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import Delete, delete, tuple_
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlmodel import col, select

from chat_app.crud import access, recording
from chat_app.crud.history import get_message, read_message
from chat_app.crud.users import profile
from chat_app.database import Transaction
from chat_app.errors import InvalidInput, MessageDeleted
from chat_app.models import Like, User
from chat_app.models.messages import MessageRead
from chat_app.models.sessions import Actor
from chat_app.models.users import UserPage, UserRead


async def like_message(db: Transaction, actor: Actor, chat_id: UUID, seq: int) -> MessageRead:
    """Like a message; liking it again changes nothing. Raises MessageDeleted."""
    liked = insert(Like).values(chat_id=chat_id, seq=seq, user_id=actor.id).on_conflict_do_nothing()
    return await _change(db, actor, chat_id, seq, liked, 1)


async def unlike_message(db: Transaction, actor: Actor, chat_id: UUID, seq: int) -> MessageRead:
    """Take a like back; without one nothing changes."""
    unliked = delete(Like).where(col(Like.chat_id) == chat_id, col(Like.seq) == seq, col(Like.user_id) == actor.id)
    return await _change(db, actor, chat_id, seq, unliked, -1)


async def _change(
    db: Transaction, actor: Actor, chat_id: UUID, seq: int, statement: Insert | Delete, by: int
) -> MessageRead:
    chat, message = await access.lock_message(db, actor, chat_id, seq, None)
    if message.deleted_at and by > 0:
        raise MessageDeleted
    if (await db.exec(statement.returning(col(Like.seq)))).first():
        await recording.take_version(db, chat)
        message.like_count += by
        await recording.record_message(db, chat, message, liker=actor)
    return await read_message(db, actor.id, chat_id, seq)


async def list_likes(
    db: Transaction, actor: Actor, chat_id: UUID, seq: int, *, cursor: str | None, limit: int
) -> UserPage:
    """The users who like a message, in the order of liking."""
    await get_message(db, actor, chat_id, seq)
    likes = select(User, Like).join(Like, col(Like.user_id) == User.id).where(Like.chat_id == chat_id, Like.seq == seq)
    place = tuple_(col(Like.created_at), col(Like.user_id))
    if cursor:
        likes = likes.where(place > _parse_cursor(cursor))
    rows = list(await db.exec(likes.order_by(place).limit(limit + 1)))
    return UserPage(
        items=[profile(db, user, UserRead) for user, _ in rows[:limit]],
        next_cursor=_cursor(rows[limit - 1][1]) if len(rows) > limit else None,
    )


def _cursor(like: Like) -> str:
    return f"{like.created_at.timestamp():.6f}_{like.user_id.hex}"


def _parse_cursor(cursor: str) -> tuple[datetime, UUID]:
    time, _, user_id = cursor.partition("_")
    try:
        return datetime.fromtimestamp(float(time), UTC), UUID(user_id)
    except (ValueError, OverflowError) as error:
        raise InvalidInput.at("/cursor", "invalid_cursor", "This is not a next_cursor of this list.") from error
