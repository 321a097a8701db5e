"""Sending, editing and deleting messages. `send_messages` is the one way in which a client's message is made."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import delete, insert, tuple_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from chat_app.crud import access, changes
from chat_app.crud.attachments import attachment_read, drop_attachment
from chat_app.crud.entries import mine_of, preview, read_for_members, shared_part
from chat_app.crud.history import message_read, read_messages, shared_message
from chat_app.db import read_clock
from chat_app.errors import (
    AttachmentNotFound,
    AttachmentUsed,
    ChatError,
    ChatNotFound,
    ClientIdReused,
    InvalidInput,
    MessageNotFound,
)
from chat_app.events import ChatsChanged, MessagesChanged, record
from chat_app.models import Attachment, Chat, Like, Message
from chat_app.models.attachments import AttachmentRead
from chat_app.models.messages import (
    AttachmentCreate,
    ContactCreate,
    LocationCreate,
    MessageCreate,
    MessageRead,
    MessageType,
    MessageUpdate,
)
from chat_app.models.sessions import Actor

# What a file must be to go as a message of a type; a `file` may be anything.
CONTENT_OF = {"image": "image/", "video": "video/", "audio": "audio/", "voice": "audio/"}


class Draft(NamedTuple):
    """A message that somebody wants to send."""

    actor: Actor
    chat_id: UUID
    data: MessageCreate


class Sent(NamedTuple):
    """A message as its sender sees it; `is_new` is false when it had been sent before."""

    message: MessageRead
    is_new: bool


def one(results: Sequence[Sent | ChatError]) -> Sent:
    """The result of a batch of one, or its error raised."""
    (result,) = results
    if isinstance(result, ChatError):
        raise result
    return result


async def send_messages(session: AsyncSession, drafts: Sequence[Draft]) -> list[Sent | ChatError]:
    """Send a batch, each message on its own: what is wrong with one is its result and does not touch the others."""
    batch = await _read_batch(session, drafts)
    placed = [batch.place(draft) for draft in drafts]
    await _write(session, batch)
    again = await _read_again(session, batch)
    return [result if isinstance(result, ChatError) else _sent(*result, again) for result in placed]


@dataclass(slots=True)
class _Known:
    """The message of a draft's client_id: in the database already, or placed by this batch and then with its row."""

    chat_id: UUID
    sender_id: UUID
    seq: int
    content_hash: bytes
    row: dict[str, Any] | None = None
    attachment: AttachmentRead | None = None


@dataclass(slots=True)
class _Batch:
    """All facts that the drafts of a batch are judged by, read after their chats were locked."""

    chats: dict[UUID, Chat]
    audiences: dict[UUID, dict[UUID, int]]
    known: dict[tuple[UUID, UUID, UUID], _Known]
    attachments: dict[UUID, Attachment]
    placed: list[_Known] = field(default_factory=list)

    def place(self, draft: Draft) -> tuple[_Known, bool] | ChatError:
        """Give the draft its seq and version, or find what it repeats (then False), or say what is wrong with it."""
        chat, data = self.chats.get(draft.chat_id), draft.data
        visible_from_seq = self.audiences.get(draft.chat_id, {}).get(draft.actor.id)
        if chat is None or visible_from_seq is None:
            return ChatNotFound()
        key = (draft.chat_id, draft.actor.id, data.client_id)
        content_hash = _content_hash(data)
        known = self.known.get(key)
        if known:
            return (known, False) if known.content_hash == content_hash else ClientIdReused()
        if data.reply_to is not None and not visible_from_seq <= data.reply_to <= chat.message_count:
            return MessageNotFound()
        attachment = self._attachment(draft)
        if isinstance(attachment, ChatError):
            return attachment
        chat.message_count += 1
        chat.version += 1
        if attachment:
            attachment.chat_id, attachment.seq = chat.id, chat.message_count
        placed = _Known(chat.id, draft.actor.id, chat.message_count, content_hash)
        placed.row = _row(draft, chat, content_hash)
        placed.attachment = attachment_read(attachment) if attachment else None
        self.known[key] = placed
        self.placed.append(placed)
        return placed, True

    def _attachment(self, draft: Draft) -> Attachment | ChatError | None:
        data = draft.data
        if not isinstance(data, AttachmentCreate):
            return None
        attachment = self.attachments.get(data.attachment_id)
        if attachment is None or attachment.owner_id != draft.actor.id:
            return AttachmentNotFound()
        if attachment.chat_id is not None:
            return AttachmentUsed()
        if not attachment.content_type.startswith(CONTENT_OF.get(data.type, "")):
            return InvalidInput.at("/attachment_id", "wrong_content_type", f"This file can't go as {data.type}.")
        return attachment


def _sent(known: _Known, is_new: bool, again: dict[tuple[UUID, UUID, int], MessageRead]) -> Sent:
    if known.row is None:
        return Sent(again[known.sender_id, known.chat_id, known.seq], is_new)
    return Sent(message_read(known.row, known.attachment, liked=False), is_new)


async def _read_batch(session: AsyncSession, drafts: Sequence[Draft]) -> _Batch:
    chats = await access.lock_chats(session, {draft.chat_id for draft in drafts})
    keys = {(draft.chat_id, draft.actor.id, draft.data.client_id) for draft in drafts if draft.chat_id in chats}
    key_columns = (col(Message.chat_id), col(Message.sender_id), col(Message.client_id))
    known = await session.exec(
        select(*key_columns, Message.seq, Message.content_hash).where(tuple_(*key_columns).in_(keys))  # type: ignore[call-overload]
    )
    return _Batch(
        chats=chats,
        audiences=await access.list_audience(session, list(chats)),
        known={(row[0], row[1], row[2]): _Known(row[0], row[1], row[3], row[4]) for row in known},
        attachments=await _lock_attachments(session, drafts),
    )


async def _lock_attachments(session: AsyncSession, drafts: Iterable[Draft]) -> dict[UUID, Attachment]:
    wanted = {draft.data.attachment_id for draft in drafts if isinstance(draft.data, AttachmentCreate)}
    if not wanted:
        return {}
    rows = await session.exec(
        select(Attachment)
        .where(col(Attachment.id).in_(wanted))
        .order_by(col(Attachment.id))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return {row.id: row for row in rows}


def _row(draft: Draft, chat: Chat, content_hash: bytes) -> dict[str, Any]:
    data = draft.data
    payload: dict[str, Any] | None = None
    if isinstance(data, LocationCreate):
        payload = {"latitude": data.latitude, "longitude": data.longitude}
    elif isinstance(data, ContactCreate):
        payload = {"name": data.name, "phone": data.phone}
    return {
        "chat_id": chat.id,
        "seq": chat.message_count,
        "version": chat.version,
        "client_id": data.client_id,
        "type": MessageType(data.type),
        "text": getattr(data, "text", None),
        "payload": payload,
        "reply_to": data.reply_to,
        "sender_id": draft.actor.id,
        "like_count": 0,
        "edited_at": None,
        "deleted_at": None,
        "content_hash": content_hash,
    }


def _content_hash(data: MessageCreate) -> bytes:
    content = data.model_dump(mode="json", exclude={"client_id", "chat_id"}, exclude_none=True)
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()


async def _write(session: AsyncSession, batch: _Batch) -> None:
    """Write what was placed, move the counters and the senders' read positions, and record the events."""
    rows = [known.row for known in batch.placed if known.row]
    if not rows:
        return
    now = await read_clock(session)
    for row in rows:
        row["sent_at"] = now
    await (await session.connection()).execute(insert(Message), rows)
    for row in rows:
        chat = batch.chats[row["chat_id"]]
        chat.updated_at = chat.changed_at = now
    await session.flush()
    last_seqs = {(row["chat_id"], row["sender_id"]): row["seq"] for row in rows}
    for (chat_id, sender_id), seq in sorted(last_seqs.items()):
        await changes.move_own_read_position(session, batch.chats[chat_id], sender_id, seq)
    for chat_id in sorted({row["chat_id"] for row in rows}):
        await _record(session, batch, chat_id)


async def _record(session: AsyncSession, batch: _Batch, chat_id: UUID) -> None:
    chat, audience = batch.chats[chat_id], batch.audiences[chat_id]
    placed = [known for known in batch.placed if known.row and known.chat_id == chat_id]
    messages = [message_read(known.row, known.attachment, liked=False) for known in placed if known.row]
    record(
        session,
        MessagesChanged(
            chat_id=chat_id,
            since=chat.version - len(messages),
            version=chat.version,
            message_count=chat.message_count,
            messages=[shared_message(message) for message in messages],
        ),
        audience,
    )
    shared = shared_part(chat, preview(messages[-1]))
    # The newest message tells its sender that they have read so far; other senders have to be told.
    told = {message.sender_id for message in messages} - {messages[-1].sender_id}
    for user_id, entry in (await read_for_members(session, chat_id, told)).items() if told else ():
        record(session, ChatsChanged(chats=[shared], mine=[mine_of(entry)]), {user_id: audience[user_id]})
    rest = {user_id: seen_from for user_id, seen_from in audience.items() if user_id not in told}
    record(session, ChatsChanged(chats=[shared]), rest)


async def _read_again(session: AsyncSession, batch: _Batch) -> dict[tuple[UUID, UUID, int], MessageRead]:
    """What had been sent before, as it is now: by sender, chat and seq."""
    repeated: dict[tuple[UUID, UUID], list[int]] = {}
    for known in batch.known.values():
        if known.row is None:
            repeated.setdefault((known.sender_id, known.chat_id), []).append(known.seq)
    return {
        (sender_id, chat_id, message.seq): message
        for (sender_id, chat_id), seqs in repeated.items()
        for message in await read_messages(session, sender_id, chat_id, col(Message.seq).in_(seqs))
    }


async def edit_message(
    session: AsyncSession, actor: Actor, chat_id: UUID, seq: int, data: MessageUpdate
) -> MessageRead:
    """Change the text or caption of one's own message; null takes a caption away."""
    chat, membership = await access.lock_chat(session, actor, chat_id)
    message = await access.access_message(session, membership, seq)
    access.check_may_edit(message, actor)
    if message.type is MessageType.CONTACT or (message.type is MessageType.TEXT and data.text is None):
        raise InvalidInput.at("/text", "not_editable", f"A message of type {message.type} can't be given this text.")
    if message.text != data.text:
        message.edited_at = await changes.take_version(session, chat)
        message.text = data.text
        await changes.record_message(session, chat, message)
    return (await read_messages(session, actor.id, chat_id, col(Message.seq) == seq))[0]


async def delete_message(session: AsyncSession, actor: Actor, chat_id: UUID, seq: int) -> None:
    """Leave a tombstone: seq, type, sender and times stay, what was said goes. Again: nothing happens."""
    chat, membership = await access.lock_chat(session, actor, chat_id)
    message = await access.access_message(session, membership, seq)
    access.check_may_delete(chat, message, actor)
    if message.deleted_at:
        return
    message.deleted_at = await changes.take_version(session, chat)
    message.text = message.payload = message.reply_to = message.edited_at = None
    message.like_count = 0
    await session.exec(delete(Like).where(col(Like.chat_id) == chat_id, col(Like.seq) == seq))
    await drop_attachment(session, chat_id, seq)
    await changes.record_message(session, chat, message)
