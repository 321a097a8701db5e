"""A member's own part of a chat: muting, archiving, marking, the draft, and an empty view."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import case, func, literal
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import col

from chat_app.crud import access
from chat_app.crud.chats import change_own, record_read
from chat_app.database import Transaction, read_clock
from chat_app.errors import MessageNotFound
from chat_app.models import Membership
from chat_app.models.base import NOW
from chat_app.models.chats import ChatRead, ChatUpdate, DraftRead, DraftUpdate
from chat_app.models.sessions import Actor


async def update_mine(db: Transaction, actor: Actor, chat_id: UUID, data: ChatUpdate) -> ChatRead:
    """Change the fields that were sent; None takes a value back. Raises MessageNotFound for the draft."""
    now, values = await read_clock(db), data.model_dump(include={"title"}, exclude_unset=True)
    if "muted_until" in data.model_fields_set:
        values["muted_until"] = data.muted_until if data.muted_until and data.muted_until > now else None
    if "archived" in data.model_fields_set:
        values["archived_at"] = func.coalesce(Membership.archived_at, NOW) if data.archived else None
    if "marked_unread" in data.model_fields_set:
        values["marked_unread"] = bool(data.marked_unread)
    if "draft" in data.model_fields_set:
        values["draft"] = data.draft and await _draft(db, actor, chat_id, data.draft, now)
    if data.marked_unread or data.draft:
        values["hidden"] = False
    return (await change_own(db, actor, chat_id, **values))[0]


async def _draft(db: Transaction, actor: Actor, chat_id: UUID, data: DraftUpdate, now: datetime) -> Any:
    """The new draft for its column. The same again keeps its time."""
    if data.reply_to is not None:
        # The lock keeps out `clear_chat`, which hides messages and takes them out of the draft.
        await db.get(Membership, (chat_id, actor.id), with_for_update={"key_share": True})
        view = await access.view_chat(db, actor, chat_id)
        if not view.visible_from_seq <= data.reply_to <= view.message_count:
            raise MessageNotFound
    draft = DraftRead(**data.model_dump(), updated_at=now).model_dump(mode="json")
    is_same = col(Membership.draft).op("-")("updated_at") == literal(data.model_dump(), JSONB)
    return case((is_same, Membership.draft), else_=literal(draft, JSONB))


async def clear_chat(db: Transaction, actor: Actor, chat_id: UUID, *, hide: bool) -> ChatRead:
    """Hide all messages so far from the actor, and with `hide` the chat until its next message."""
    chat, view = await access.lock_chat(db, actor, chat_id)
    newest = chat.message_count
    draft = col(Membership.draft).op("||")(literal({"reply_to": None}, JSONB))
    read = {"last_read_seq": newest, "marked_unread": False}
    values = {"visible_from_seq": newest + 1, **read, "hidden": hide, "draft": draft}
    entry, _ = await change_own(db, actor, chat_id, **values)
    if view.last_read_seq < newest:
        await record_read(db, actor, chat_id, newest, view)
    return entry
