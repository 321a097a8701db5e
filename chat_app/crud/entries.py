"""Reading chats as one member sees them: the shared part, and the member's own."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from chat_app.crud.briefs import list_briefs
from chat_app.crud.history import people_in
from chat_app.crud.statements import read_sql
from chat_app.database import LONGEST_TRANSACTION, Db
from chat_app.errors import ChatNotFound, InvalidInput
from chat_app.logs import log_authorized
from chat_app.models import Chat
from chat_app.models.base import BIGGEST
from chat_app.models.chats import (
    ChatBase,
    ChatList,
    ChatMine,
    ChatRead,
    ChatShared,
    ChatType,
    Membership,
    Mine,
    RemovedChat,
    Unread,
)
from chat_app.models.messages import MessageType, Preview, System
from chat_app.models.sessions import Actor
from chat_app.models.users import Avatar, UserBrief, brief
from chat_app.models.wire_json import construct

PREVIEW_LENGTH = 200
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
# The number of the next transaction: no clock counts them. A row keeps the low 32 bits of the one that wrote it.
_NEXT = "pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
_WRITTEN = f"({_NEXT} - (({_NEXT} - {{table}}.xmin::text::bigint) & 4294967295))"

CHAT_FIELDS = tuple(ChatBase.model_fields)
# The fields of Mine that are columns of a membership. Its `version` counts the personal changes, there `mine_version`.
MINE_FIELDS = tuple(name for name in Mine.model_fields if name in Membership.model_fields)
MINE_COLUMNS = ", ".join(f"membership.{name} AS own_{name}" for name in MINE_FIELDS).replace(
    ".version", ".mine_version"
)
_PREVIEW_FIELDS = tuple(Preview.model_fields)
_SOURCES = {"text": f"left(last.text, {PREVIEW_LENGTH})", "system": "last.payload"}
_PREVIEW_COLUMNS = ", ".join(f"{_SOURCES.get(name, f'last.{name}')} AS last_{name}" for name in _PREVIEW_FIELDS)

_ENTRIES = read_sql("entries.sql", mine=MINE_COLUMNS, preview=_PREVIEW_COLUMNS)


async def get_chat(db: Db, actor: Actor, chat_id: UUID) -> ChatRead:
    """One of the actor's chats. Raises ChatNotFound."""
    entries = await read_for_members(db, chat_id, [actor.id])
    if not entries:
        raise ChatNotFound
    log_authorized(chat=chat_id)
    return entries[actor.id]


async def read_for_peers(db: Db, user_id: UUID) -> dict[UUID, ChatRead]:
    """The private chats of a user, by peer and as the peer sees them."""
    rows = await _read(db, "(low_id = $1 OR high_id = $1) AND user_id != $1", user_id)
    return {row["user_id"]: _chat_read(row) for row in rows}


async def read_for_members(db: Db, chat_id: UUID, user_ids: Iterable[UUID]) -> dict[UUID, ChatRead]:
    """One chat as each of these members sees it."""
    rows = await _read(db, "chat_id = $1 AND user_id = ANY($2::uuid[])", chat_id, list(user_ids))
    return {row["user_id"]: _chat_read(row) for row in rows}


async def read_some(db: Db, user_id: UUID, chat_ids: Iterable[UUID]) -> list[ChatRead]:
    """Those of these chats that are the user's."""
    rows = await _read(db, "membership.user_id = $1 AND chat_id = ANY($2::uuid[])", user_id, list(chat_ids))
    return [_chat_read(row) for row in rows]


async def list_chats(
    db: Db,
    actor: Actor,
    *,
    cursor: str | None,
    limit: int,
    changed_since: str | None,
    ids: list[UUID] | None = None,
    archived: bool | None = None,
) -> ChatList:
    """A page of the actor's chats: pinned ones first, then the latest updated. Raises InvalidInput for other cursors.

    With `changed_since` the order is by id: a chat that moved up between two pages would be on neither, and the client
    would never learn what it missed. With `ids` all of these that are the actor's are on one page. Only the whole list
    leaves out what is out of sight.
    """
    if ids is not None and (cursor or changed_since or archived is not None):
        raise InvalidInput.at("/ids", "conflicting_parameters", "Give `ids` without other parameters but `limit`.")
    if archived is not None and changed_since:
        raise InvalidInput.at("/archived", "conflicting_parameters", "Give `archived` without `changed_since`.")
    limit = limit if ids is None else len(ids)
    since = _parse_sync(changed_since) if changed_since else None
    where, values, order = _page(_parse_cursor(cursor) if cursor else None, since, ids, archived)
    sync, unread = await read_sync(db, actor.id)
    rows = await _read(db, f"user_id = $1 AND {where}", actor.id, limit + 1, *values, order=order)
    items = [_chat_read(row) for row in rows[:limit]]
    removed = await db.fetch(_REMOVED, actor.id, *since) if since and not cursor else []
    return ChatList(
        items=items,
        removed=[construct(RemovedChat, dict(row)) for row in removed],
        users=await list_briefs(db, mentioned(items)),
        next_cursor=_cursor(items[-1]) if len(rows) > limit else None,
        sync=sync,
        unread=None if cursor else unread,
    )


def _page(
    after: tuple[datetime, datetime, UUID] | None,
    since: tuple[datetime, int] | None,
    ids: list[UUID] | None,
    archived: bool | None,
) -> tuple[str, Sequence[object], str]:
    """The condition of a page, its values from $3 on, and its order. `after`: the position of the chat before it."""
    if since:
        changed = f"({_changed('chat', 3)} OR {_changed('membership', 3)})"
        return (f"{changed} AND id > $5", [*since, after[2]], "id") if after else (changed, since, "id")
    order, pinned = "pinned DESC, updated_at DESC, id", "coalesce(pinned_at, 'epoch')"
    if ids is not None:
        return "chat_id = ANY($3::uuid[])", [ids], order
    listed = f"NOT ({_OUT_OF_SIGHT})"
    if archived is not None:
        listed += f" AND (archived_at IS NOT NULL) = {archived}"
    if after:
        listed += f" AND ({pinned} < $3 OR {pinned} = $3 AND (updated_at < $4 OR updated_at = $4 AND id > $5))"
    return listed, after or [], order


_OUT_OF_SIGHT = "hidden AND message_count < visible_from_seq"
_SYNC = read_sql(
    "sync.sql",
    out_of_sight=_OUT_OF_SIGHT,
    **{f"{table}_written": _WRITTEN.format(table=table) for table in ("membership", "chat")},
)


async def read_sync(db: Db, user_id: UUID) -> tuple[str, Unread]:
    """A mark of the whole chat list of a user, and what is unread in it: equal marks mean that nothing was missed.

    The time is not enough: an earlier change may be committed later. The sum of the versions shows it. The newest
    transaction finds what was written under a clock that went back.
    """
    (row,) = await db.fetch(_SYNC, user_id)
    sync = f"{_microseconds(row['latest'] or NEVER)}.{row['versions'] or 0}.{row['written'] or 0}"
    return sync, Unread(chats=row["chats"], messages=row["messages"])


def shared_fields(chat: Mapping[str, Any], last_message: Preview | None) -> dict[str, Any]:
    """The fields that go to every member of a chat, from its row."""
    fields = {name: chat[name] for name in CHAT_FIELDS} | {"last_message": last_message}
    fields["avatar"] = chat["picture_key"] and Avatar.of(chat["picture_key"])
    # After the message of a user the column may be old: the former release does not clear it.
    known = chat["last_user_seq"] if last_message and last_message.type is MessageType.SYSTEM else None
    return fields | {"last_user_seq": chat["message_count"] if known is None else known}


def shared_part(chat: Chat, last_message: Preview | None) -> ChatShared:
    return construct(ChatShared, shared_fields(chat.model_dump(), last_message))


def preview(message: Mapping[str, Any]) -> Preview:
    """The newest message as the chat list shows it, from its fields."""
    fields = {name: message[name] for name in _PREVIEW_FIELDS}
    is_system = fields["type"] is MessageType.SYSTEM
    fields["text"] = fields["text"] and fields["text"][:PREVIEW_LENGTH]
    fields["system"] = System.model_validate(fields["system"]) if is_system and fields["system"] else None
    return construct(Preview, fields)


def mentioned(chats: Sequence[ChatShared]) -> set[UUID]:
    """The users that these chats refer to."""
    creators = {chat.creator_id for chat in chats if chat.creator_id}
    return creators | people_in(chat.last_message for chat in chats if chat.last_message)


def mine_fields(row: Any, peer: UserBrief | None, shared: Mapping[str, Any], others_read_seq: int) -> dict[str, Any]:
    """The personal part of a chat, from a row with MINE_COLUMNS and the shared part."""
    fields = {name: row[f"own_{name}"] for name in MINE_FIELDS}
    position = fields["last_read_seq"]
    unread = shared["message_count"] - position if shared["last_user_seq"] > position else 0
    return fields | {"peer": peer, "others_read_seq": others_read_seq, "unread_count": unread}


def mine_of(chat: ChatRead) -> ChatMine:
    """The personal part on its own, as events carry it."""
    return construct(ChatMine, {"chat_id": chat.id, **chat.mine.__dict__})


def _cursor(chat: ChatRead) -> str:
    """The position of a chat in the list, in the form in which clients pass it back."""
    position = _microseconds(chat.mine.pinned_at or NEVER), _microseconds(chat.updated_at), chat.id
    return base64.urlsafe_b64encode("|".join(map(str, position)).encode()).decode()


def _parse_cursor(text: str) -> tuple[datetime, datetime, UUID]:
    """When the chat at the cursor was pinned and updated, and its id. Raises InvalidInput."""
    try:
        pinned, updated, chat_id = base64.urlsafe_b64decode(text).decode().split("|")
        return _time(int(pinned)), _time(int(updated)), UUID(chat_id)
    except (ValueError, OverflowError) as error:
        raise InvalidInput.at("/cursor", "invalid_cursor", "This is not a next_cursor of this list.") from error


def _parse_sync(sync: str) -> tuple[datetime, int]:
    """Where a former `sync` begins: changes from this time on, and those that later transactions wrote.

    Raises InvalidInput. Marks of former releases have no transaction, and may have `1E+4` for a sum.
    """
    changed_at, _, rest = sync.partition(".")
    try:
        written = int(rest.partition(".")[2] or 0)
        if not 0 <= written <= BIGGEST:
            raise ValueError(written)
        # Earlier by the longest time from a change to its commit.
        return _time(int(changed_at)) - LONGEST_TRANSACTION, written
    except (ValueError, OverflowError) as error:
        raise InvalidInput.at("/changed_since", "invalid_sync", "This is not a former `sync`.") from error


def _changed(table: str, first: int) -> str:
    """The condition that a row changed after a `sync`, whose values are this parameter and the next.

    The time finds late commits, the transaction finds what was written under a clock that went back. A transaction that
    this server has not begun yet gives no bound, and every row counts as changed.
    """
    return (
        f"({table}.changed_at > ${first} OR {_WRITTEN.format(table=table)} > ${first + 1} OR ${first + 1} >= {_NEXT})"
    )


async def _read(db: Db, where: str, *values: object, order: str = "") -> list[Any]:
    """The entries that meet the conditions; with an order only the first $2 of them, in it."""
    limited, ordered = (f"ORDER BY {order} LIMIT $2", f"ORDER BY {order}") if order else ("", "")
    return await db.fetch(_ENTRIES.format(where=where, order=limited, order_again=ordered), *values)


def _chat_read(row: Any) -> ChatRead:
    last = {name: row[f"last_{name}"] for name in _PREVIEW_FIELDS}
    last_message = preview(last | {"type": MessageType(last["type"])}) if last["seq"] else None
    peer = brief(row["peer_id"], row["name"], row["avatar_key"]) if row["peer_id"] else None
    fields = shared_fields(row, last_message) | {"type": ChatType(row["type"])}
    # Before the visible start nothing is shown.
    fields["last_message"] = last_message if row["message_count"] >= row["own_visible_from_seq"] else None
    fields["mine"] = construct(Mine, mine_fields(row, peer, fields, row["others_read_seq"]))
    return construct(ChatRead, fields)


_REMOVED = f"""
SELECT chat_id, version, removed_reason AS reason FROM membership
WHERE user_id = $1 AND removed_at IS NOT NULL AND {_changed("membership", 2)}
"""


def _microseconds(time: datetime) -> int:
    return (time - NEVER) // timedelta(microseconds=1)


def _time(microseconds: int) -> datetime:
    return NEVER + timedelta(microseconds=microseconds)
