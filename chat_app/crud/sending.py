"""A batch of messages on its way into the database: a handful of statements, however many messages and chats.

The chats are locked first. What each draft is judged by is read after that. One statement writes everything.
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
from chat_app.crud.briefs import list_briefs
from chat_app.crud.entries import MINE_COLUMNS, mine_fields, preview, shared_fields
from chat_app.crud.forwards import Forwards
from chat_app.crud.history import people_in, quoted_by_draft, read_messages
from chat_app.crud.recording import record_messages
from chat_app.crud.statements import read_sql
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
from chat_app.events import ChatsChanged, record
from chat_app.models.answers import Created
from chat_app.models.chats import ChatMine, ChatShared, ChatType
from chat_app.models.extra import canonical
from chat_app.models.messages import (
    NO_PAYLOAD,
    AttachmentCreate,
    ForwardCreate,
    MessageCreate,
    MessageShared,
    MessageType,
)
from chat_app.models.sessions import Actor
from chat_app.models.users import brief
from chat_app.models.wire_json import array, as_json, construct, extend, preserialized


class Draft(NamedTuple):
    """A message to be sent."""

    actor: Actor
    chat_id: UUID
    data: MessageCreate


# A message as its sender sees it, as JSON. One that was sent before is not new.
Sent = Created[bytes]


@dataclass(slots=True)
class _Existing:
    """The message of a client id. One that was in the database before has no JSON until it is read."""

    seq: int
    content_hash: bytes
    json: bytes = b""


@dataclass(slots=True)
class _Chat:
    """A locked chat, its audience, and what the batch adds to it. `known`: messages by sender and client id."""

    id: UUID
    row: Any
    audience: dict[UUID, int]
    known: dict[tuple[UUID, UUID], _Existing]
    message_count: int
    version: int
    placed: list[MessageShared] = field(default_factory=list)

    @classmethod
    def of(cls, chat_id: UUID, row: Any) -> Self:
        known = {(sender_id, client_id): _Existing(*found) for sender_id, client_id, *found in row["known"]}
        audience = dict(zip(row["members"] or (), row["visible_from"] or (), strict=True))
        return cls(chat_id, row, audience, known, row["message_count"], row["version"])

    def shared(self, now: datetime) -> ChatShared:
        fields = shared_fields(self.row, preview(self.placed[-1].__dict__))
        fields |= {"id": self.id, "version": self.version, "updated_at": now}
        fields |= dict.fromkeys(("message_count", "last_user_seq"), self.message_count)
        return construct(ChatShared, fields)


class Sending:
    """One batch. `begin`, then `place` each draft, then `write`."""

    def __init__(
        self, db: RawConnection, chats: dict[UUID, _Chat], attachments: dict[UUID, Any], forwards: Forwards
    ) -> None:
        self.db = db
        self.chats = chats
        self.attachments = attachments
        self.forwards = forwards
        # Without a chat nothing is placed.
        self.now: Any = max((chat.row["now"] for chat in chats.values()), default=None)
        self._rows: list[bytes] = []

    @classmethod
    async def begin(cls, db: Db, drafts: Sequence[Draft], patience: float | None) -> Self:
        keys = [
            {"chat_id": d.chat_id, "sender_id": d.actor.id, "client_id": d.data.client_id, "reply_to": d.data.reply_to}
            for d in drafts
        ]
        forwards = Forwards((draft.actor, draft.data) for draft in drafts)
        rows = await access.lock_to_send(db, keys, patience=patience, sources=forwards.sources)
        wanted = {draft.data.attachment_id for draft in drafts if isinstance(draft.data, AttachmentCreate)}
        attachments = await lock_attachments(db, wanted) if wanted else {}
        await forwards.read(db)
        # A UUID of the driver's own class is slow to write.
        ids = {draft.chat_id: draft.chat_id for draft in drafts}
        chats = [_Chat.of(ids[row["id"]], row) for row in rows]
        return cls(await db.raw(), {chat.id: chat for chat in chats}, attachments, forwards)

    def place(self, draft: Draft) -> tuple[_Existing, bool] | ChatError:
        """Give the draft its seq and version, or find the message that it repeats (then False), or its error."""
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
        content = self._content(data, draft.actor)
        if isinstance(content, ChatError):
            return content
        attachment, taken = content
        chat.message_count += 1
        chat.version += 1
        if attachment:
            attachment |= {"chat_id": chat.id, "seq": chat.message_count}
        fields = _fields(draft, chat, self.now, attachment and attachment_read(attachment)) | taken
        json = as_json(fields)
        chat.placed.append(preserialized(construct(MessageShared, fields), json))
        self._rows.append(extend(json, content_hash=content_hash.hex()))
        known = chat.known[key] = _Existing(chat.message_count, content_hash, extend(json, liked=False, reacted=[]))
        return known, True

    def _content(self, data: MessageCreate, actor: Actor) -> tuple[dict[str, Any] | None, dict[str, Any]] | ChatError:
        """The row of the attachment, and the fields that come from another message."""
        if isinstance(data, ForwardCreate):
            return self.forwards.take(actor, data)
        attachment = self._attachment(data, actor) if isinstance(data, AttachmentCreate) else None
        return attachment if isinstance(attachment, ChatError) else (attachment, {})

    def _attachment(self, data: AttachmentCreate, actor: Actor) -> dict[str, Any] | ChatError:
        attachment: dict[str, Any] | None = self.attachments.get(data.attachment_id)
        if attachment is None or attachment["owner_id"] != actor.id:
            return AttachmentNotFound()
        if attachment["chat_id"] is not None:
            return AttachmentUsed()
        if not attachment["content_type"].startswith(data.content_types[data.type]):
            return InvalidInput.at("/attachment_id", "wrong_content_type", f"This file can't go as {data.type}.")
        return attachment

    async def write(self) -> None:
        """Write what was placed, move the counters and the senders' read positions, and record the events."""
        if not self._rows:
            return
        mine = await self.db.fetch(_WRITE, self.now, array(self._rows).decode())
        carried = [a for a in self.attachments.values() if a["seq"] is not None]
        if carried:
            columns = zip(*((a["id"], a["chat_id"], a["seq"]) for a in carried), strict=True)
            await self.db.fetch(_CARRY, *columns)
        await self.forwards.write(self.db)
        by_chat: dict[UUID, list[Any]] = {}
        for row in mine:
            order_delivery(self.db, (row["chat_id"], row["user_id"]))
            by_chat.setdefault(row["chat_id"], []).append(row)
        for chat_id, rows in by_chat.items():
            await self._record(self.chats[chat_id], rows)

    async def _record(self, chat: _Chat, mine: list[Any]) -> None:
        people = [brief(*person) for person in chat.row["people"]]
        forwards = [message for message in chat.placed if message.forwarded]
        if forwards:
            people = await list_briefs(self.db, {user.id for user in people} | people_in(forwards))
        # A message of the batch itself was not there to be read.
        found = {message.seq: message for message in map(quoted_by_draft, chat.row["quoted"])}
        quoted = [found[seq] for seq in sorted(found.keys() & {message.reply_to for message in chat.placed})]
        record_messages(self.db, chat, chat.placed, chat.audience, quoted, people, forwards)
        # The newest message shows its sender's read position; other senders get theirs in `mine`.
        newest_sender = chat.placed[-1].sender_id
        users = [user for user in people if user.id == newest_sender]
        entry: dict[str, Any] = {"chats": [chat.shared(self.now)], "mine": [], "removed": [], "users": users}
        others = {row["user_id"]: row for row in mine if row["user_id"] != newest_sender}
        is_private = others and chat.row["type"] == ChatType.PRIVATE
        both = await list_briefs(self.db, chat.audience) if is_private else []
        for user_id, row in others.items():
            peer = next((user for user in both if user.id != user_id), None)
            # The sender of the newest message has read it.
            fields = mine_fields(row, peer, entry["chats"][0].__dict__, chat.message_count)
            own = construct(ChatMine, {"chat_id": chat.id, **fields})
            record(self.db, construct(ChatsChanged, {**entry, "mine": [own]}), {user_id: chat.audience[user_id]})
        rest = {user: seq for user, seq in chat.audience.items() if user not in others} if others else chat.audience
        record(self.db, construct(ChatsChanged, entry), rest)

    async def read_resent(self) -> None:
        """Read the messages that were sent before, as they are now."""
        for chat in self.chats.values():
            resent = {(sender_id, known.seq): known for (sender_id, _), known in chat.known.items() if not known.json}
            for reader_id in {sender_id for sender_id, _ in resent}:
                seqs = [seq for sender_id, seq in resent if sender_id == reader_id]
                for message in await read_messages(self.db, reader_id, chat.id, seqs):
                    resent[reader_id, message.seq].json = as_json(message)


_WRITE = read_sql(
    "write_messages.sql",
    payloads=", ".join(NO_PAYLOAD),
    payload_columns=" jsonb, ".join(NO_PAYLOAD),
    mine=MINE_COLUMNS,
)

_CARRY = """
UPDATE attachment SET chat_id = carried.chat_id, seq = carried.seq
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS carried (id, chat_id, seq) WHERE attachment.id = carried.id
"""


def _fields(draft: Draft, chat: _Chat, now: datetime, attachment: Any) -> dict[str, Any]:
    """The fields of a message that go to every member."""
    data = draft.data
    fields: dict[str, Any] = {
        "chat_id": chat.id,
        "seq": chat.message_count,
        "version": chat.version,
        "client_id": data.client_id,
        # A forward takes that of its original.
        "type": _TYPES.get(data.type),
        "text": getattr(data, "text", None),
        "reply_to": data.reply_to,
        "sender_id": draft.actor.id,
        "like_count": 0,
        "sent_at": now,
        "edited_at": None,
        "deleted_at": None,
        "extra": data.extra,
        "pinned_at": None,
        **NO_PAYLOAD,
        "attachment": attachment,
        "reactions": [],
        "forwarded": None,
    }
    if data.payload:
        fields[data.type] = construct(data.payload, {name: getattr(data, name) for name in data.payload.model_fields})
    return fields


_TYPES: dict[str, MessageType] = {kind.value: kind for kind in MessageType}


# The same content is the same message. The chat that a command named and the client id do not count.
_UNHASHED = ("client_id", "chat_id")


def _content_hash(data: MessageCreate) -> bytes:
    content = {name: value for name, value in data.__dict__.items() if value is not None and name not in _UNHASHED}
    if data.extra is not None:
        content["extra"] = canonical(data.extra).decode()
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()
