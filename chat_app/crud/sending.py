"""A batch of messages on its way into the database: a handful of statements, however many messages and chats.

The chats are locked first; what each draft is judged by is read after that; all is written in one statement.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Self
from uuid import UUID

import orjson

from chat_app.crud import access
from chat_app.crud.attachments import attachment_read, lock_attachments
from chat_app.crud.entries import preview
from chat_app.crud.history import read_messages
from chat_app.crud.users import list_briefs
from chat_app.database import Db
from chat_app.delivery import order_delivery
from chat_app.driver import RawConnection
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
from chat_app.models.chats import ChatMine, ChatShared, ChatType
from chat_app.models.messages import (
    AttachmentCreate,
    Contact,
    ContactCreate,
    Location,
    LocationCreate,
    MessageCreate,
    MessageRead,
    MessageShared,
    MessageType,
)
from chat_app.models.sessions import Actor
from chat_app.models.users import UserBrief
from chat_app.models.wire_json import array, as_json, construct, extend, preserialized

# What a file must be to go as a message of a type; a `file` may be anything.
CONTENT_OF = {"image": "image/", "video": "video/", "audio": "audio/", "voice": "audio/"}

Resent = dict[tuple[UUID, UUID, int], MessageRead]


class Draft(NamedTuple):
    """A message that somebody wants to send."""

    actor: Actor
    chat_id: UUID
    data: MessageCreate


class Sent(NamedTuple):
    """A message as its sender sees it, written once; `is_new` is false when it had been sent before."""

    json: bytes
    is_new: bool

    @property
    def message(self) -> MessageRead:
        return MessageRead.model_validate_json(self.json)


@dataclass(slots=True)
class _Existing:
    """The message of a draft's client id: in the database already, or placed by this batch and then whole."""

    chat_id: UUID
    sender_id: UUID
    seq: int
    content_hash: bytes
    json: bytes | None = None

    def sent(self, is_new: bool, again: Resent) -> Sent:
        return Sent(self.json or as_json(again[self.sender_id, self.chat_id, self.seq]), is_new)


@dataclass(slots=True)
class _Chat:
    """A locked chat, its audience, and what the batch adds to it."""

    id: UUID
    row: Any
    audience: dict[UUID, int]
    known: dict[tuple[UUID, UUID], _Existing]
    message_count: int
    version: int
    placed: list[MessageShared] = field(default_factory=list)

    @classmethod
    def of(cls, chat_id: UUID, row: Any) -> Self:
        known = {(known[0], known[1]): _Existing(chat_id, known[0], known[2], known[3]) for known in row["known"]}
        audience = dict(zip(row["members"] or (), row["visible_from"] or (), strict=True))
        return cls(chat_id, row, audience, known, row["message_count"], row["version"])

    def shared(self, now: datetime) -> ChatShared:
        row = self.row
        return construct(
            ChatShared,
            {
                "type": row["type"],
                "title": row["title"],
                "creator_id": row["creator_id"],
                "member_count": row["member_count"],
                "message_count": self.message_count,
                "version": self.version,
                "created_at": row["created_at"],
                "updated_at": now,
                "id": self.id,
                "last_message": preview(self.placed[-1]),
            },
        )


class Sending:
    """One batch. `begin`, then `place` each draft, then `write`."""

    def __init__(self, batch: RawConnection, chats: dict[UUID, _Chat], attachments: dict[UUID, Any]) -> None:
        self.batch = batch
        self.chats = chats
        self.attachments = attachments
        # Without a chat nothing is placed.
        self.now: Any = max((chat.row["now"] for chat in chats.values()), default=None)
        self._rows: list[bytes] = []

    @classmethod
    async def begin(cls, db: Db, drafts: Sequence[Draft], patience: float | None) -> Self:
        keys = [{"chat_id": d.chat_id, "sender_id": d.actor.id, "client_id": d.data.client_id} for d in drafts]
        rows = await access.lock_to_send(db, keys, patience=patience)
        wanted = {draft.data.attachment_id for draft in drafts if isinstance(draft.data, AttachmentCreate)}
        attachments = await lock_attachments(db, wanted) if wanted else {}
        # A UUID of the driver's own class is slow to write.
        ids = {draft.chat_id: draft.chat_id for draft in drafts}
        chats = [_Chat.of(ids[row["id"]], row) for row in rows]
        return cls(await db.raw(), {chat.id: chat for chat in chats}, attachments)

    def place(self, draft: Draft) -> tuple[_Existing, bool] | ChatError:
        """Give the draft its seq and version, or find what it repeats (then False), or say what is wrong with it."""
        chat, data = self.chats.get(draft.chat_id), draft.data
        visible_from_seq = chat.audience.get(draft.actor.id) if chat else None
        if chat is None or visible_from_seq is None:
            return ChatNotFound()
        content_hash = _content_hash(data)
        key = draft.actor.id, data.client_id
        known = chat.known.get(key)
        if known:
            return (known, False) if known.content_hash == content_hash else ClientIdReused()
        if data.reply_to is not None and not visible_from_seq <= data.reply_to <= chat.message_count:
            return MessageNotFound()
        attachment = self._attachment(draft) if isinstance(data, AttachmentCreate) else None
        if isinstance(attachment, ChatError):
            return attachment
        chat.message_count += 1
        chat.version += 1
        if isinstance(data, AttachmentCreate):
            self.attachments[data.attachment_id] |= {"chat_id": chat.id, "seq": chat.message_count}
        fields = _fields(draft, chat, self.now, attachment and attachment_read(attachment))
        json = as_json(fields)
        chat.placed.append(preserialized(construct(MessageShared, fields), json))
        self._rows.append(extend(json, content_hash=content_hash.hex()))
        own = extend(json, liked=False)
        known = chat.known[key] = _Existing(chat.id, draft.actor.id, chat.message_count, content_hash, own)
        return known, True

    def _attachment(self, draft: Draft) -> dict[str, Any] | ChatError:
        data = draft.data
        assert isinstance(data, AttachmentCreate)
        attachment: dict[str, Any] | None = self.attachments.get(data.attachment_id)
        if attachment is None or attachment["owner_id"] != draft.actor.id:
            return AttachmentNotFound()
        if attachment["chat_id"] is not None:
            return AttachmentUsed()
        if not attachment["content_type"].startswith(CONTENT_OF.get(data.type, "")):
            return InvalidInput.at("/attachment_id", "wrong_content_type", f"This file can't go as {data.type}.")
        return attachment

    async def write(self) -> None:
        """Write what was placed, move the counters and the senders' read positions, and record the events."""
        if not self._rows:
            return
        mine = await self.batch.fetch(_WRITE, self.now, array(self._rows).decode())
        carried = [a for a in self.attachments.values() if a.get("seq") is not None]
        if carried:
            columns = zip(*((a["id"], a["chat_id"], a["seq"]) for a in carried), strict=True)
            await self.batch.fetch(_CARRY, *columns)
        by_chat: dict[UUID, list[Any]] = {}
        for row in mine:
            order_delivery(self.batch, (row["chat_id"], row["user_id"]))
            by_chat.setdefault(row["chat_id"], []).append(row)
        for chat_id, rows in by_chat.items():
            await self._record(self.chats[chat_id], rows)

    async def _record(self, chat: _Chat, mine: list[Any]) -> None:
        told = {
            "chat_id": chat.id,
            "since": chat.version - len(chat.placed),
            "version": chat.version,
            "message_count": chat.message_count,
            "messages": chat.placed,
            "members": [],
            "users": [],
        }
        record(self.batch, construct(MessagesChanged, told), chat.audience)
        entry = {"chats": [chat.shared(self.now)], "mine": [], "removed": [], "users": []}
        # The newest message tells its sender that they have read so far; other senders have to be told.
        newest_sender = chat.placed[-1].sender_id
        others = {row["user_id"]: row for row in mine if row["user_id"] != newest_sender}
        rest = chat.audience
        if others:
            rest = {user_id: seen_from for user_id, seen_from in rest.items() if user_id not in others}
            is_private = chat.row["type"] == ChatType.PRIVATE
            people = await list_briefs(self.batch, chat.audience) if is_private else []
        for user_id, row in others.items():
            peer = next((user for user in people if user.id != user_id), None)
            own = {**entry, "mine": [_mine(chat, row, peer)]}
            record(self.batch, construct(ChatsChanged, own), {user_id: chat.audience[user_id]})
        record(self.batch, construct(ChatsChanged, entry), rest)

    async def read_resent(self) -> Resent:
        """What had been sent before, as it is now: by sender, chat and seq."""
        repeated: dict[tuple[UUID, UUID], list[int]] = {}
        for chat in self.chats.values():
            for known in chat.known.values():
                if known.json is None:
                    repeated.setdefault((known.sender_id, known.chat_id), []).append(known.seq)
        return {
            (sender_id, chat_id, message.seq): message
            for (sender_id, chat_id), seqs in repeated.items()
            for message in await read_messages(self.batch, sender_id, chat_id, "seq = ANY($3::bigint[])", seqs)
        }


_WRITE = """
WITH placed AS MATERIALIZED (
    SELECT * FROM json_to_recordset($2) AS placed (chat_id uuid, seq bigint, version bigint, sender_id uuid,
        client_id uuid, content_hash text, type text, text text, payload jsonb, reply_to bigint)
), sent AS (
    INSERT INTO message (chat_id, seq, version, sender_id, client_id, content_hash,
        type, text, payload, reply_to, like_count, sent_at)
    SELECT chat_id, seq, version, sender_id, client_id, decode(content_hash, 'hex'),
        type, text, payload, reply_to, 0, $1
    FROM placed
), counted AS (
    UPDATE chat SET message_count = last.seq, version = last.version, updated_at = $1, changed_at = $1
    FROM (SELECT chat_id, max(seq) AS seq, max(version) AS version FROM placed GROUP BY chat_id) AS last
    WHERE id = last.chat_id
)
UPDATE membership SET last_read_seq = own.seq, mine_version = mine_version + 1, changed_at = $1
FROM (SELECT chat_id, sender_id, max(seq) AS seq FROM placed GROUP BY chat_id, sender_id) AS own
WHERE membership.chat_id = own.chat_id AND user_id = sender_id AND removed_at IS NULL
RETURNING membership.chat_id, user_id, title, pinned_at, visible_from_seq, last_read_seq, mine_version
"""

_CARRY = """
UPDATE attachment SET chat_id = carried.chat_id, seq = carried.seq
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS carried (id, chat_id, seq) WHERE attachment.id = carried.id
"""


def _mine(chat: _Chat, row: Any, peer: UserBrief | None) -> ChatMine:
    return construct(
        ChatMine,
        {
            "chat_id": chat.id,
            "version": row["mine_version"],
            "title": row["title"],
            "peer": peer,
            "pinned_at": row["pinned_at"],
            "last_read_seq": row["last_read_seq"],
            # Whoever sent the newest message has read it.
            "others_read_seq": chat.message_count,
            "visible_from_seq": row["visible_from_seq"],
            "unread_count": chat.message_count - row["last_read_seq"],
        },
    )


def _fields(draft: Draft, chat: _Chat, now: datetime, attachment: Any) -> dict[str, Any]:
    """Of a message as it goes to everybody."""
    data = draft.data
    payload: Location | Contact | None = None
    if isinstance(data, LocationCreate):
        payload = Location(latitude=data.latitude, longitude=data.longitude)
    elif isinstance(data, ContactCreate):
        payload = Contact(name=data.name, phone=data.phone)
    return {
        "chat_id": chat.id,
        "seq": chat.message_count,
        "version": chat.version,
        "client_id": data.client_id,
        "type": _TYPES[data.type],
        "text": getattr(data, "text", None),
        "reply_to": data.reply_to,
        "sender_id": draft.actor.id,
        "like_count": 0,
        "sent_at": now,
        "edited_at": None,
        "deleted_at": None,
        "payload": payload,
        "attachment": attachment,
    }


_TYPES: dict[str, MessageType] = {kind.value: kind for kind in MessageType}


def _content_hash(data: MessageCreate) -> bytes:
    content = {
        name: value
        for name, value in data.__dict__.items()
        if value is not None and name not in ("client_id", "chat_id")
    }
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()
