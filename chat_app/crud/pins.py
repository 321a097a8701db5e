"""Pinned messages: what every member of a chat finds on top of it."""

from uuid import UUID

from chat_app.crud import access, recording
from chat_app.crud.history import read_message
from chat_app.database import Transaction
from chat_app.errors import TooManyPinned
from chat_app.models.base import LIMITS
from chat_app.models.messages import MessageRead
from chat_app.models.sessions import Actor

_COUNT = "SELECT count(*) FROM message WHERE chat_id = $1 AND pinned_at IS NOT NULL AND deleted_at IS NULL"


async def pin_message(db: Transaction, actor: Actor, chat_id: UUID, seq: int) -> MessageRead:
    """Pin a message for all members; again it changes nothing. Raises MessageDeleted, TooManyPinned."""
    chat, message = await access.lock_message(db, actor, chat_id, seq, access.check_may_pin)
    if message.pinned_at is None:
        if (await db.fetch(_COUNT, chat_id))[0]["count"] >= LIMITS["pinned_messages"]:
            raise TooManyPinned
        message.pinned_at = await recording.take_version(db, chat)
        await recording.record_message(db, chat, message, is_pin=True)
    return await read_message(db, actor.id, chat_id, seq)


async def unpin_message(db: Transaction, actor: Actor, chat_id: UUID, seq: int) -> MessageRead:
    """Unpin a message; one that is not pinned stays as it is."""
    chat, message = await access.lock_message(db, actor, chat_id, seq, None)
    if message.pinned_at:
        await recording.take_version(db, chat)
        message.pinned_at = None
        await recording.record_message(db, chat, message, is_pin=True)
    return await read_message(db, actor.id, chat_id, seq)
