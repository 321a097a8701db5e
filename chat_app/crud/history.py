"""Reading the messages and members of a chat: pages, single ones, and what changed."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from chat_app.crud.access import JSON_COLUMNS, MESSAGE_COLUMNS, View, view_chat
from chat_app.crud.attachments import attachment_read
from chat_app.crud.briefs import list_briefs
from chat_app.crud.statements import read_sql
from chat_app.database import Db
from chat_app.errors import InvalidInput, MessageNotFound
from chat_app.models.attachments import AttachmentRead
from chat_app.models.chats import MemberRead
from chat_app.models.messages import (
    NO_PAYLOAD,
    PAYLOADS,
    WITH_ATTACHMENT,
    Forwarded,
    MessagePage,
    MessageRead,
    MessageShared,
    MessageType,
    PinnedList,
    Preview,
)
from chat_app.models.reactions import ReactionCount
from chat_app.models.screens import Changes
from chat_app.models.sessions import Actor
from chat_app.models.wire_json import construct

# A client that is further behind reads the newest page anew.
TOO_FAR_BACK = 10_000


async def list_messages(
    db: Db,
    actor: Actor,
    chat_id: UUID,
    *,
    before: int | None = None,
    after: int | None = None,
    around: int | None = None,
    around_time: datetime | None = None,
    limit: int = 50,
) -> MessagePage:
    """A page of the history: before or after a seq, around one or a time, or the newest.

    Raises InvalidInput for two bounds.
    """
    if sum(bound is not None for bound in (before, after, around, around_time)) > 1:
        raise InvalidInput.at("/before", "conflicting_bounds", "Give one of before, after, around, around_time.")
    view = await view_chat(db, actor, chat_id)
    if around_time:
        ((around,),) = await db.fetch(_AT_TIME, chat_id, view.visible_from_seq, view.message_count, around_time)
    first, last = _bounds(view, before, after, around, limit)
    items = await _read(db, actor.id, chat_id, "chat_id = $1 AND seq BETWEEN $3 AND $4", first, last)
    replied = await _replied(db, actor.id, chat_id, view, items)
    return MessagePage(
        items=items,
        has_before=first > view.visible_from_seq,
        has_after=last < view.message_count,
        version=view.version,
        users=await list_briefs(db, people_in([*items, *replied])),
        replied=replied,
    )


_AT_TIME = read_sql("seq_at_time.sql")


async def _replied(db: Db, user_id: UUID, chat_id: UUID, view: View, items: list[MessageRead]) -> list[MessageRead]:
    """The messages that these quote, but for themselves and what the user does not see."""
    quoted = {item.reply_to for item in items if item.reply_to is not None} - {item.seq for item in items}
    quoted = {seq for seq in quoted if seq >= view.visible_from_seq}
    return await read_messages(db, user_id, chat_id, quoted) if quoted else []


def _bounds(view: View, before: int | None, after: int | None, around: int | None, limit: int) -> tuple[int, int]:
    """The first and last seq of a page; seqs have no gaps, so a page is plain arithmetic."""
    newest = view.message_count
    if after is not None:
        first = min(max(after + 1, view.visible_from_seq), newest + 1)
        return first, min(newest, first + limit - 1)
    last = newest
    if before is not None:
        last = min(before - 1, newest)
    elif around is not None:
        last = min(newest, max(around - limit // 2, view.visible_from_seq) + limit - 1)
    last = max(last, view.visible_from_seq - 1)
    return max(last - limit + 1, view.visible_from_seq), last


async def get_message(db: Db, actor: Actor, chat_id: UUID, seq: int) -> MessageRead:
    """One message. Raises MessageNotFound."""
    view = await view_chat(db, actor, chat_id)
    found = await read_messages(db, actor.id, chat_id, [seq])
    if not found or seq < view.visible_from_seq:
        raise MessageNotFound
    return found[0]


async def list_pinned_messages(db: Db, actor: Actor, chat_id: UUID) -> PinnedList:
    """The pinned messages that the actor sees, the last pinned first."""
    # Read before the rest, so that it is not newer.
    view = await view_chat(db, actor, chat_id)
    items = await read_pinned(db, actor.id, chat_id, view.visible_from_seq)
    return PinnedList(items=items, users=await list_briefs(db, people_in(items)), version=view.version)


async def read_pinned(db: Db, user_id: UUID, chat_id: UUID, visible_from_seq: int) -> list[MessageShared]:
    """As list_pinned_messages, of what the user sees by the caller's decision."""
    condition = "chat_id = $1 AND pinned_at IS NOT NULL AND deleted_at IS NULL AND seq >= $3"
    pinned = await _read(db, user_id, chat_id, condition, visible_from_seq, order="pinned_at DESC, seq DESC")
    return [quoted_message(message) for message in pinned]


async def list_changes(db: Db, actor: Actor, chat_id: UUID, *, since: int, limit: int = 100) -> Changes:
    """Every message and member that changed after the version `since`, in the order of their versions."""
    view = await view_chat(db, actor, chat_id)
    reset = since < view.joined_version or since > view.version or view.version - since > TOO_FAR_BACK
    after = view.version if reset else since
    condition = "chat_id = $1 AND version > $3 AND version <= $4 AND seq >= $5"
    values = after, view.version, view.visible_from_seq
    messages = await _read(db, actor.id, chat_id, condition, *values, limit, order="version LIMIT $6")
    # A version changes one message at most, so a page never ends within one.
    until = messages[-1].version if len(messages) == limit else view.version
    members = await read_changed_members(db, chat_id, after, until)
    replied = await _replied(db, actor.id, chat_id, view, messages)
    return Changes(
        since=since,
        version=until,
        message_count=view.message_count,
        messages=messages,
        members=members,
        users=await list_briefs(db, people_in([*messages, *replied]) | {member.user_id for member in members}),
        replied=replied,
        has_more=until < view.version,
        reset=reset,
    )


async def read_messages(db: Db, user_id: UUID, chat_id: UUID, seqs: Collection[int]) -> list[MessageRead]:
    """Messages of a chat as this user sees them. The caller has decided what the user may see."""
    return await _read(db, user_id, chat_id, "chat_id = $1 AND seq = ANY($3::bigint[])", list(seqs))


async def read_places(db: Db, user_id: UUID, places: Collection[tuple[UUID, int]]) -> list[MessageRead]:
    """As read_messages, by chat and seq, the newest first."""
    chat_ids, seqs = [list(column) for column in zip(*places, strict=True)] or ([], [])
    condition = "(chat_id, seq) IN (SELECT * FROM unnest($1::uuid[], $3::bigint[]))"
    return await _read(db, user_id, chat_ids, condition, seqs, order="sent_at DESC, chat_id DESC, seq DESC")


async def read_message(db: Db, user_id: UUID, chat_id: UUID, seq: int) -> MessageRead:
    """A message that exists, as read_messages."""
    return (await read_messages(db, user_id, chat_id, [seq]))[0]


async def _read(
    db: Db, user_id: UUID, chat_ids: object, condition: str, *values: object, order: str = "seq"
) -> list[MessageRead]:
    rows = await db.fetch(_MESSAGES.format(condition, order), chat_ids, user_id, *values)
    carrying = [row for row in rows if row["type"] in WITH_ATTACHMENT and row["deleted_at"] is None]
    places = [row["chat_id"] for row in carrying], [row["seq"] for row in carrying]
    carried = await db.fetch(_ATTACHMENTS, *places) if carrying else []
    attachments = {(row["chat_id"], row["seq"]): attachment_read(row) for row in carried}
    return [_message_read(row, attachments.get((row["chat_id"], row["seq"]))) for row in rows]


_COLUMNS = ", ".join(f"message.{name}" for name in MESSAGE_COLUMNS)
# The numbers from $3 on belong to the condition and the order.
_MESSAGES = f"""
SELECT {_COLUMNS}, like_count > 0 AND EXISTS (
    SELECT FROM "like" WHERE "like".chat_id = message.chat_id AND "like".seq = message.seq AND user_id = $2
) AS liked, CASE WHEN reactions IS NULL THEN '{{{{}}}}' ELSE ARRAY (
    SELECT emoji FROM reaction
    WHERE reaction.chat_id = message.chat_id AND reaction.seq = message.seq AND user_id = $2 ORDER BY reaction.version
) END AS reacted
FROM message WHERE {{}} ORDER BY {{}}
"""
_ATTACHMENTS = "SELECT * FROM attachment WHERE (chat_id, seq) IN (SELECT * FROM unnest($1::uuid[], $2::bigint[]))"


def _message_read(row: Any, attachment: AttachmentRead | None) -> MessageRead:
    kind = MessageType(row["type"])
    fields = {**row, **NO_PAYLOAD, "type": kind, "attachment": attachment}
    fields["reactions"] = [construct(ReactionCount, each) for each in row["reactions"] or ()]
    if row["deleted_at"]:
        # The former release deletes without a look at these.
        fields |= {"extra": None, "reactions": [], "reacted": [], "pinned_at": None, "forwarded": None}
    if fields["forwarded"]:
        fields["forwarded"] = Forwarded.model_validate(fields["forwarded"])
    if payload := fields.pop("payload"):
        fields[kind] = PAYLOADS[kind].model_validate(payload)
    return construct(MessageRead, fields)


def shared_message(message: MessageRead) -> MessageShared:
    """The message for every receiver. A tombstone keeps `liked` and `reacted`, as nobody likes it any more."""
    if message.deleted_at:
        return construct(MessageRead, {**message.__dict__, "liked": False, "reacted": []})
    return quoted_message(message)


def quoted_message(message: MessageRead) -> MessageShared:
    """A message that another one quotes, for every receiver."""
    return construct(MessageShared, {name: message.__dict__[name] for name in MessageShared.model_fields})


def quoted_by_draft(columns: Sequence[Any]) -> MessageShared:
    """A message that `lock_to_send` found, from its columns and its attachment."""
    plain = len(MESSAGE_COLUMNS) - len(JSON_COLUMNS)
    *fields, attachment = (*columns[:plain], *(text and orjson.loads(text) for text in columns[plain:]))
    message = dict(zip(MESSAGE_COLUMNS, fields, strict=True))
    return quoted_message(_message_read(message, attachment and attachment_read(attachment)))


async def read_members(db: Db, chat_id: UUID) -> list[MemberRead]:
    """The members of a chat, in the order of joining."""
    rows = await db.fetch(_MEMBERS.format("removed_at IS NULL", "joined_at, is_creator DESC, user_id"), chat_id)
    return [construct(MemberRead, dict(row)) for row in rows]


async def read_changed_members(db: Db, chat_id: UUID, since: int, until: int) -> list[MemberRead]:
    """The members that changed after one version up to another, removed ones too, in the order of their versions."""
    changed = "membership.version > $2 AND membership.version <= $3"
    rows = await db.fetch(_MEMBERS.format(changed, "membership.version, user_id"), chat_id, since, until)
    return [construct(MemberRead, dict(row)) for row in rows]


_MEMBERS = """
SELECT user_id, user_id IS NOT DISTINCT FROM creator_id AS is_creator, last_read_seq, joined_at, removed_at,
    membership.version
FROM membership JOIN chat ON chat.id = chat_id WHERE chat_id = $1 AND {} ORDER BY {}
"""


def people_in(messages: Iterable[MessageShared | Preview]) -> set[UUID]:
    """The users that these messages refer to."""
    people: set[UUID] = set()
    for message in messages:
        people.add(message.sender_id)
        if message.system:
            people.update(message.system.user_ids)
        if isinstance(message, MessageShared) and message.forwarded:
            people.add(message.forwarded.author_id)
    return people
