"""Reading chats as one member sees them: the shared part, and what is personal about it."""

import base64
import binascii
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from chat_app.crud.users import list_briefs
from chat_app.database import LONGEST_TRANSACTION, Db
from chat_app.errors import ChatNotFound, InvalidInput
from chat_app.models import Chat, Message
from chat_app.models.base import BIGGEST
from chat_app.models.chats import (
    ChatBase,
    ChatList,
    ChatMine,
    ChatRead,
    ChatShared,
    ChatType,
    Mine,
    RemovedChat,
)
from chat_app.models.messages import MessageShared, MessageType, Preview, System
from chat_app.models.sessions import Actor
from chat_app.models.users import brief
from chat_app.models.wire_json import construct

PREVIEW_LENGTH = 200
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
# The number of the next transaction: no clock counts them. A row keeps the low 32 bits of the one that wrote it.
_NEXT = "pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
_WRITTEN = f"({_NEXT} - (({_NEXT} - {{table}}.xmin::text::bigint) & 4294967295))"

# What an entry shows of `page`: chats with the membership through which each is seen.
_ENTRIES = """
WITH page AS (
    SELECT chat.*, membership.user_id, mine_version, membership.title AS own_title, pinned_at, last_read_seq,
        visible_from_seq, coalesce(pinned_at, 'epoch') AS pinned
    FROM membership JOIN chat ON chat.id = chat_id WHERE removed_at IS NULL AND {where} {order}
)
SELECT page.*, seq, message.type AS message_type, left(text, {preview}) AS text,
    CASE message.type WHEN 'system' THEN payload END AS payload, sender_id, sent_at, message.deleted_at AS unsent_at,
    peer.id AS peer_id, peer.name, avatar_key, (
        SELECT coalesce(max(last_read_seq), 0) FROM membership AS other
        WHERE chat_id = page.id AND other.user_id <> page.user_id AND removed_at IS NULL
    ) AS others_read_seq
FROM page
LEFT JOIN message ON chat_id = page.id AND seq = message_count
LEFT JOIN "user" AS peer ON peer.id = CASE page.user_id WHEN low_id THEN high_id WHEN high_id THEN low_id END
{order_again}
"""


async def read_chat(db: Db, user_id: UUID, chat_id: UUID) -> ChatRead:
    """One chat as this user sees it. Raises ChatNotFound."""
    entries = await read_for_members(db, chat_id, [user_id])
    if not entries:
        raise ChatNotFound
    return entries[user_id]


async def read_for_members(db: Db, chat_id: UUID, user_ids: Iterable[UUID]) -> dict[UUID, ChatRead]:
    """One chat as each of these members sees it."""
    rows = await _read(db, "chat_id = $1 AND user_id = ANY($2::uuid[])", chat_id, list(user_ids))
    return {row["user_id"]: _chat_read(row) for row in rows}


async def list_chats(db: Db, actor: Actor, *, cursor: str | None, limit: int, changed_since: str | None) -> ChatList:
    """A page of one's chats, pinned ones first, then the latest updated. Raises InvalidInput for a foreign cursor.

    With `changed_since` by id: a chat that moved up between two pages would be on neither, and what was missed of it
    would never be told.
    """
    sync = await read_sync(db, actor.id)
    since = Since.parse(changed_since) if changed_since else None
    where, values, order = "user_id = $1", [actor.id, limit + 1], "pinned DESC, updated_at DESC, id"
    last = Cursor.parse(cursor) if cursor else None
    if since:
        where, order = f"{where} AND ({_changed('chat', 3)} OR {_changed('membership', 3)})", "id"
        values += since
        if last:
            where, values = f"{where} AND id > $5", [*values, last.chat_id]
    elif last:
        pinned = "coalesce(pinned_at, 'epoch')"
        where = f"{where} AND ({pinned} < $3 OR {pinned} = $3 AND (updated_at < $4 OR updated_at = $4 AND id > $5))"
        values += last
    rows = await _read(db, where, *values, order=order)
    items = [_chat_read(row) for row in rows[:limit]]
    return ChatList(
        items=items,
        removed=await _list_removed(db, actor.id, since) if since and not cursor else [],
        users=await list_briefs(db, mentioned(items)),
        next_cursor=Cursor.of(items[-1]).text() if len(rows) > limit else None,
        sync=sync,
    )


async def read_sync(db: Db, user_id: UUID) -> str:
    """A mark of everything in one's chat list: equal marks mean that nothing was missed.

    The time alone would not do: a change that was made earlier may be committed later. The sum of the versions tells.
    The newest transaction finds what was written under a clock that went back.
    """
    # A removal doubles the membership's share, so that the sum grows with every change, this one too.
    (row,) = await db.fetch(
        f"""
        SELECT max(greatest(membership.changed_at, CASE WHEN removed_at IS NULL THEN chat.changed_at END)) AS latest,
            sum(CASE WHEN removed_at IS NULL THEN chat.version ELSE membership.version END
                + membership.version + mine_version)::bigint AS versions,
            max(greatest({_WRITTEN.format(table="membership")},
                CASE WHEN removed_at IS NULL THEN {_WRITTEN.format(table="chat")} END)) AS written
        FROM membership JOIN chat ON chat.id = chat_id WHERE user_id = $1
        """,
        user_id,
    )
    return f"{_microseconds(row['latest'] or NEVER)}.{row['versions'] or 0}.{row['written'] or 0}"


def shared_part(chat: Chat, last_message: Preview | None) -> ChatShared:
    """What goes to every member of a chat."""
    return ChatShared(**_base(chat), id=chat.id, last_message=last_message)


def preview(message: Message | MessageShared | None) -> Preview | None:
    """The newest message as the chat list shows it."""
    if message is None:
        return None
    is_system = message.type is MessageType.SYSTEM
    return construct(
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


class Since(NamedTuple):
    """Where a former `sync` says to look: from this time on, and at what transactions after this one wrote."""

    changed_at: datetime
    written: int

    @classmethod
    def parse(cls, sync: str) -> "Since":
        """Raises InvalidInput. Those of former releases have no transaction, and may have `1E+4` for a sum."""
        changed_at, _, rest = sync.partition(".")
        try:
            written = int(rest.partition(".")[2] or 0)
            if not 0 <= written <= BIGGEST:
                raise ValueError(written)
            # Earlier by as long as a transaction may have taken from its change to its commit.
            return cls(_time(int(changed_at)) - LONGEST_TRANSACTION, written)
        except (ValueError, OverflowError) as error:
            raise InvalidInput.at("/changed_since", "invalid_sync", "This is not a former `sync`.") from error


def _changed(table: str, first: int) -> str:
    """The condition that a row changed after a Since, whose values are this parameter and the next.

    The time finds what was committed late, the transaction what was written under a clock that went back. One that this
    server has not begun yet says nothing of its rows: all of them.
    """
    return (
        f"({table}.changed_at > ${first} OR {_WRITTEN.format(table=table)} > ${first + 1} OR ${first + 1} >= {_NEXT})"
    )


async def _read(db: Db, where: str, *values: object, order: str = "") -> list[Any]:
    """The entries that meet the conditions; with an order only the first $2 of them, in it."""
    statement = _ENTRIES.format(
        where=where,
        preview=PREVIEW_LENGTH,
        order=f"ORDER BY {order} LIMIT $2" if order else "",
        order_again=f"ORDER BY {order}" if order else "",
    )
    return await db.fetch(statement, *values)


def _chat_read(row: Any) -> ChatRead:
    peer = brief(row["peer_id"], row["name"], row["avatar_key"]) if row["peer_id"] else None
    mine = {
        "version": row["mine_version"],
        "title": row["own_title"],
        "peer": peer,
        "pinned_at": row["pinned_at"],
        "last_read_seq": row["last_read_seq"],
        "others_read_seq": row["others_read_seq"],
        "visible_from_seq": row["visible_from_seq"],
        "unread_count": row["message_count"] - row["last_read_seq"],
    }
    fields = {name: row[name] for name in _CHAT_FIELDS} | {"type": ChatType(row["type"])}
    return construct(ChatRead, {**fields, "last_message": _last_message(row), "mine": construct(Mine, mine)})


_CHAT_FIELDS = (*ChatBase.model_fields, "id")


def _last_message(row: Any) -> Preview | None:
    if row["seq"] is None:
        return None
    payload = row["payload"] and System.model_validate(row["payload"])
    fields = {name: row[name] for name in ("seq", "text", "sender_id", "sent_at")}
    fields |= {"type": MessageType(row["message_type"]), "payload": payload, "deleted_at": row["unsent_at"]}
    return construct(Preview, fields)


def _base(chat: Chat) -> dict[str, Any]:
    return {name: getattr(chat, name) for name in ChatBase.model_fields}


async def _list_removed(db: Db, user_id: UUID, since: Since) -> list[RemovedChat]:
    rows = await db.fetch(
        f"""
        SELECT chat_id, version, removed_reason AS reason FROM membership
        WHERE user_id = $1 AND removed_at IS NOT NULL AND {_changed("membership", 2)}
        """,
        user_id,
        *since,
    )
    return [construct(RemovedChat, dict(row)) for row in rows]


def _microseconds(time: datetime) -> int:
    return (time - NEVER) // timedelta(microseconds=1)


def _time(microseconds: int) -> datetime:
    return NEVER + timedelta(microseconds=microseconds)
