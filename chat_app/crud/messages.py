"""Sending, editing and deleting messages. `send_messages` is the one way in which a client's message is made."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete
from sqlmodel import col

from chat_app.crud import access, changes
from chat_app.crud.attachments import drop_attachment
from chat_app.crud.history import read_messages
from chat_app.crud.sending import Draft, Sending, Sent
from chat_app.database import Db, Transaction
from chat_app.errors import ChatError, InvalidInput
from chat_app.models import Like
from chat_app.models.messages import MessageRead, MessageType, MessageUpdate
from chat_app.models.sessions import Actor

__all__ = ["Draft", "Sent", "delete_message", "edit_message", "one", "send_messages"]


def one(results: Sequence[Sent | ChatError]) -> Sent:
    """The result of a batch of one, or its error raised."""
    (result,) = results
    if isinstance(result, ChatError):
        raise result
    return result


async def send_messages(db: Db, drafts: Sequence[Draft], *, patience: float | None = None) -> list[Sent | ChatError]:
    """Send a batch, each message on its own: what is wrong with one is its result and does not touch the others.

    `patience`: seconds to wait for a chat that somebody else holds; None: as long as for anything.
    """
    sending = await Sending.begin(db, drafts, patience)
    placed = [sending.place(draft) for draft in drafts]
    await sending.write()
    again = await sending.read_resent()
    return [result if isinstance(result, ChatError) else result[0].sent(result[1], again) for result in placed]


async def edit_message(db: Transaction, actor: Actor, chat_id: UUID, seq: int, data: MessageUpdate) -> MessageRead:
    """Change the text or caption of one's own message; null takes a caption away."""
    chat, membership = await access.lock_chat(db, actor, chat_id)
    message = await access.access_message(db, membership, seq)
    access.check_may_edit(message, actor)
    if message.type is MessageType.CONTACT or (message.type is MessageType.TEXT and data.text is None):
        raise InvalidInput.at("/text", "not_editable", f"A message of type {message.type} can't be given this text.")
    if message.text != data.text:
        message.edited_at = await changes.take_version(db, chat)
        message.text = data.text
        await changes.record_message(db, chat, message)
    return (await read_messages(db, actor.id, chat_id, "seq = $3", seq))[0]


async def delete_message(db: Transaction, actor: Actor, chat_id: UUID, seq: int) -> None:
    """Leave a tombstone: seq, type, sender and times stay, what was said goes. Resent: nothing happens."""
    chat, membership = await access.lock_chat(db, actor, chat_id)
    message = await access.access_message(db, membership, seq)
    access.check_may_delete(chat, message, actor)
    if message.deleted_at:
        return
    message.deleted_at = await changes.take_version(db, chat)
    message.text = message.payload = message.reply_to = message.edited_at = None
    message.like_count = 0
    await db.exec(delete(Like).where(col(Like.chat_id) == chat_id, col(Like.seq) == seq))
    await drop_attachment(db, chat_id, seq)
    await changes.record_message(db, chat, message)
