"""Sending, editing and deleting messages. Every message of a client is made by `send_messages`."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete
from sqlmodel import col

from chat_app.crud import access, recording
from chat_app.crud.attachments import drop_attachment
from chat_app.crud.history import read_message
from chat_app.crud.sending import Draft, Sending, Sent
from chat_app.database import Db, Transaction
from chat_app.errors import ChatError, InvalidInput
from chat_app.models import Like, Reaction
from chat_app.models.answers import Created
from chat_app.models.extra import canonical
from chat_app.models.messages import CREATE_OF, MessageRead, MessageUpdate
from chat_app.models.sessions import Actor

__all__ = ["Draft", "Sent", "delete_message", "edit_message", "one", "send_messages"]


def one(results: Sequence[Sent | ChatError]) -> Sent:
    """The result of a batch of one, or its error raised."""
    (result,) = results
    if isinstance(result, ChatError):
        raise result
    return result


async def send_messages(db: Db, drafts: Sequence[Draft], *, patience: float | None = None) -> list[Sent | ChatError]:
    """Send a batch, each message on its own: the error of one is its result, and the others are sent.

    `patience`: seconds to wait for a chat that another transaction holds; None: as long as for anything.
    """
    sending = await Sending.begin(db, drafts, patience)
    placed = [sending.place(draft) for draft in drafts]
    await sending.write()
    await sending.read_resent()
    return [each if isinstance(each, ChatError) else Created(each[0].json, each[1], each[0].seq) for each in placed]


async def edit_message(db: Transaction, actor: Actor, chat_id: UUID, seq: int, data: MessageUpdate) -> MessageRead:
    """Change the text, the caption or `extra` of the actor's message; None removes what the message can do without."""
    chat, message = await access.lock_message(db, actor, chat_id, seq, access.check_may_edit)
    sent, fields = data.model_dump(exclude_unset=True), CREATE_OF[message.type].model_fields
    for name, value in sent.items():
        if name not in fields or (value is None and fields[name].is_required()):
            detail = f"A message of type {message.type} can't be given this {name}."
            raise InvalidInput.at(f"/{name}", "not_editable", detail)
    changed = {name for name, value in sent.items() if canonical(value) != canonical(getattr(message, name))}
    if changed:
        now = await recording.take_version(db, chat)
        message.sqlmodel_update({name: sent[name] for name in changed})
        message.edited_at = now if "text" in changed else message.edited_at
        await recording.record_message(db, chat, message, is_listed="text" in changed)
    return await read_message(db, actor.id, chat_id, seq)


async def delete_message(db: Transaction, actor: Actor, chat_id: UUID, seq: int) -> None:
    """Leave a tombstone: seq, type, sender and times stay, the content goes. A second time nothing happens."""
    chat, message = await access.lock_message(db, actor, chat_id, seq, access.check_may_delete)
    if message.deleted_at:
        return
    message.deleted_at = await recording.take_version(db, chat)
    message.text = message.payload = message.extra = message.reply_to = message.edited_at = None
    message.reactions = message.pinned_at = message.forwarded = None
    message.like_count = 0
    await db.exec(delete(Like).where(col(Like.chat_id) == chat_id, col(Like.seq) == seq))
    await db.exec(delete(Reaction).where(col(Reaction.chat_id) == chat_id, col(Reaction.seq) == seq))
    await drop_attachment(db, chat_id, seq)
    await recording.record_message(db, chat, message)
