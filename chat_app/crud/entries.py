"""Reading chats as one member sees them: the shared part, and what is personal about it."""

import base64
import binascii
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import and_, case, func, or_
from sqlalchemy.orm import aliased
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from chat_app.crud.users import list_briefs
from chat_app.db import LONGEST_TRANSACTION
from chat_app.errors import ChatNotFound, InvalidInput
from chat_app.models import Chat, Membership, Message, User
from chat_app.models.base import trusted
from chat_app.models.chats import (
    ChatBase,
    ChatList,
    ChatMine,
    ChatRead,
    ChatShared,
    Mine,
    RemovedChat,
)
from chat_app.models.messages import MessageRead, MessageType, Preview, System
from chat_app.models.sessions import Actor
from chat_app.models.users import brief

PREVIEW_LENGTH = 200
NEVER = datetime(1970, 1, 1, tzinfo=UTC)

_peer = aliased(User)
_other = aliased(Membership)
_OTHERS_READ = (
    select(func.coalesce(func.max(_other.last_read_seq), 0))
    .where(
        _other.chat_id == Membership.chat_id,
        _other.user_id != Membership.user_id,
        col(_other.removed_at).is_(None),
    )
    .correlate(Membership)
    .scalar_subquery()
)
_PINNED = func.coalesce(Membership.pinned_at, NEVER)
_IS_PEER = or_(
    and_(col(Chat.low_id) == Membership.user_id, col(_peer.id) == Chat.high_id),
    and_(col(Chat.high_id) == Membership.user_id, col(_peer.id) == Chat.low_id),
)


async def read_chat(session: AsyncSession, user_id: UUID, chat_id: UUID) -> ChatRead:
    """One chat as this user sees it. Raises ChatNotFound."""
    entries = await _read(session, col(Membership.user_id) == user_id, col(Membership.chat_id) == chat_id)
    if not entries:
        raise ChatNotFound
    return entries[user_id]


async def read_for_members(session: AsyncSession, chat_id: UUID, user_ids: Iterable[UUID]) -> dict[UUID, ChatRead]:
    """One chat as each of these members sees it."""
    return await _read(session, col(Membership.chat_id) == chat_id, col(Membership.user_id).in_(set(user_ids)))


async def list_chats(
    session: AsyncSession, actor: Actor, *, cursor: str | None, limit: int, changed_since: str | None
) -> ChatList:
    """A page of one's chats, pinned ones first, then the latest updated. Raises InvalidInput for a foreign cursor.

    With `changed_since` by id: a chat that moved up between two pages would be on neither, and what was missed of it
    would never be told.
    """
    sync = await read_sync(session, actor.id)
    since = _parse_sync(changed_since) if changed_since else None
    conditions = [col(Membership.user_id) == actor.id]
    if since:
        conditions.append(or_(col(Chat.changed_at) > since, col(Membership.changed_at) > since))
    if cursor:
        last = Cursor.parse(cursor)
        conditions.append(col(Chat.id) > last.chat_id if since else _after(last))
    order = (col(Chat.id),) if since else _ORDER
    rows = list(await session.exec(_statement(*conditions).order_by(*order).limit(limit + 1)))
    items = [_chat_read(row) for row in rows[:limit]]
    return ChatList(
        items=items,
        removed=await _list_removed(session, actor.id, since) if since and not cursor else [],
        users=await list_briefs(session, mentioned(items)),
        next_cursor=Cursor.of(items[-1]).text() if len(rows) > limit else None,
        sync=sync,
    )


async def read_sync(session: AsyncSession, user_id: UUID) -> str:
    """A mark of everything in one's chat list: equal marks mean that nothing was missed.

    The time alone would not do: a change that was made earlier may be committed later. The sum of the versions tells.
    """
    alive = col(Membership.removed_at).is_(None)
    # A removal doubles the membership's share, so that the sum grows with every change, this one too.
    weight = case((alive, col(Membership.version) + Chat.version), else_=2 * col(Membership.version))
    row = (
        await session.exec(
            select(
                func.max(func.greatest(Membership.changed_at, case((alive, col(Chat.changed_at))))),
                func.sum(weight + Membership.mine_version),
            )
            .join(Chat, col(Chat.id) == Membership.chat_id)
            .where(Membership.user_id == user_id)
        )
    ).one()
    return f"{_microseconds(row[0] or NEVER)}.{row[1] or 0}"


def shared_part(chat: Chat, last_message: Preview | None) -> ChatShared:
    """What goes to every member of a chat."""
    return ChatShared(**_base(chat), id=chat.id, last_message=last_message)


def preview(message: Message | MessageRead | None) -> Preview | None:
    """The newest message as the chat list shows it."""
    if message is None:
        return None
    is_system = message.type is MessageType.SYSTEM
    return trusted(
        Preview,
        {
            "seq": message.seq,
            "type": message.type,
            "text": message.text and message.text[:PREVIEW_LENGTH],
            "payload": System.model_validate(message.payload) if is_system else None,
            "sender_id": message.sender_id,
            "sent_at": message.sent_at,
            "deleted_at": message.deleted_at,
        },
    )


def mentioned(chats: Iterable[ChatShared]) -> set[UUID]:
    """Whom these chats refer to."""
    users: set[UUID] = set()
    for chat in chats:
        users |= {chat.creator_id} if chat.creator_id else set()
        if chat.last_message:
            users.add(chat.last_message.sender_id)
            users.update(chat.last_message.payload.user_ids if chat.last_message.payload else [])
    return users


def mine_of(chat: ChatRead) -> ChatMine:
    """The personal part on its own, as events carry it."""
    return ChatMine(chat_id=chat.id, **chat.mine.model_dump())


class Cursor(NamedTuple):
    """The position of a chat in the list."""

    pinned_at: datetime
    updated_at: datetime
    chat_id: UUID

    @classmethod
    def of(cls, chat: ChatRead) -> "Cursor":
        return cls(chat.mine.pinned_at or NEVER, chat.updated_at, chat.id)

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        try:
            pinned, updated, chat_id = base64.urlsafe_b64decode(text).decode().split("|")
            return cls(_time(int(pinned)), _time(int(updated)), UUID(chat_id))
        except (ValueError, OverflowError, binascii.Error) as error:
            raise InvalidInput.at("/cursor", "invalid_cursor", "This is not a next_cursor of this list.") from error

    def text(self) -> str:
        """What clients pass back as it is."""
        plain = f"{_microseconds(self.pinned_at)}|{_microseconds(self.updated_at)}|{self.chat_id}"
        return base64.urlsafe_b64encode(plain.encode()).decode()


_ORDER = (_PINNED.desc(), col(Chat.updated_at).desc(), col(Chat.id))


def _after(cursor: Cursor) -> ColumnElement[bool]:
    updated = col(Chat.updated_at)
    return or_(
        _PINNED < cursor.pinned_at,
        and_(_PINNED == cursor.pinned_at, updated < cursor.updated_at),
        and_(_PINNED == cursor.pinned_at, updated == cursor.updated_at, col(Chat.id) > cursor.chat_id),
    )


def _statement(*conditions: ColumnElement[bool]) -> Any:
    """Every chat that meets the conditions, with all that an entry shows."""
    columns: Any = (Chat, Membership, Message, _peer.id, _peer.name, _peer.avatar_key, _OTHERS_READ)
    return (
        select(*columns)
        .join(Chat, col(Chat.id) == Membership.chat_id)
        .outerjoin(Message, and_(col(Message.chat_id) == Chat.id, col(Message.seq) == Chat.message_count))
        .outerjoin(_peer, _IS_PEER)
        .where(col(Membership.removed_at).is_(None), *conditions)
        .execution_options(populate_existing=True)
    )


async def _read(session: AsyncSession, *conditions: ColumnElement[bool]) -> dict[UUID, ChatRead]:
    await session.flush()
    rows = await session.exec(_statement(*conditions))
    return {row[1].user_id: _chat_read(row) for row in rows}


def _chat_read(row: Any) -> ChatRead:
    chat, membership, message, peer_id, peer_name, peer_avatar, others_read_seq = row
    return ChatRead(
        **_base(chat),
        id=chat.id,
        last_message=preview(message),
        mine=Mine(
            version=membership.mine_version,
            title=membership.title,
            peer=brief(peer_id, peer_name, peer_avatar) if peer_id else None,
            pinned_at=membership.pinned_at,
            last_read_seq=membership.last_read_seq,
            others_read_seq=others_read_seq,
            visible_from_seq=membership.visible_from_seq,
            unread_count=chat.message_count - membership.last_read_seq,
        ),
    )


def _base(chat: Chat) -> dict[str, Any]:
    return {name: getattr(chat, name) for name in ChatBase.model_fields}


async def _list_removed(session: AsyncSession, user_id: UUID, since: datetime) -> list[RemovedChat]:
    rows = await session.exec(
        select(Membership.chat_id, Membership.version, Membership.removed_reason).where(
            Membership.user_id == user_id,
            col(Membership.removed_at).is_not(None),
            col(Membership.changed_at) > since,
        )
    )
    return [
        RemovedChat.model_validate({"chat_id": chat_id, "version": version, "reason": reason})
        for chat_id, version, reason in rows
    ]


def _parse_sync(sync: str) -> datetime:
    """From when on to look: earlier by as long as a transaction may have taken from its change to its commit."""
    try:
        return _time(int(sync.partition(".")[0])) - LONGEST_TRANSACTION
    except (ValueError, OverflowError) as error:
        raise InvalidInput.at("/changed_since", "invalid_sync", "This is not a former `sync`.") from error


def _microseconds(time: datetime) -> int:
    return (time - NEVER) // timedelta(microseconds=1)


def _time(microseconds: int) -> datetime:
    return NEVER + timedelta(microseconds=microseconds)
