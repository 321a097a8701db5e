"""Forwards: new messages with the content of others, which are read under the locks of both chats."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import orjson

from chat_app.crud import access
from chat_app.database import Db
from chat_app.errors import ChatError, InvalidInput, MessageDeleted, MessageNotFound
from chat_app.models.base import new_id
from chat_app.models.messages import ForwardCreate, Forwarded, MessageCreate, MessageType
from chat_app.models.sessions import Actor
from chat_app.models.wire_json import as_json, construct

_WRITE_COPIES = "INSERT INTO attachment SELECT * FROM json_populate_recordset(NULL::attachment, $1)"


class Forwards:
    """Those of a batch. Lock the chats of `sources`, then `read`."""

    def __init__(self, sends: Iterable[tuple[Actor, MessageCreate]]) -> None:
        self._keys = {_key(actor, data) for actor, data in sends if isinstance(data, ForwardCreate)}
        self.sources = {chat_id for _, chat_id, _ in self._keys}
        self._originals: dict[tuple[UUID, UUID, int], Any] = {}
        self._copies: list[dict[str, Any]] = []

    async def read(self, db: Db) -> None:
        """Read the originals; without forwards there is nothing to read."""
        rows = await access.read_originals(db, self._keys) if self._keys else []
        self._originals = {(row["reader_id"], row["chat_id"], row["seq"]): row for row in rows}

    def take(self, actor: Actor, data: ForwardCreate) -> tuple[dict[str, Any] | None, dict[str, Any]] | ChatError:
        """The row of a new attachment with the same file, and the fields that are taken over."""
        original = self._originals.get(_key(actor, data))
        if original is None:
            return MessageNotFound()
        kind, first = MessageType(original["type"]), original["forwarded"] or original
        if kind is MessageType.SYSTEM:
            return InvalidInput.at("/from_seq", "system_message", "A system message can't be forwarded.")
        if original["deleted_at"]:
            return MessageDeleted()
        if kind is MessageType.CUSTOM and data.extra is None:
            return InvalidInput.at(
                "/extra", "missing", "Give a custom message its `extra`: a forward takes none along."
            )
        copy: dict[str, Any] | None = None
        if original["file"]:
            copy = orjson.loads(original["file"]) | {"id": new_id(), "owner_id": actor.id}
            self._copies.append(copy)
        forwarded = construct(Forwarded, {"author_id": original["author_id"], "sent_at": first["sent_at"]})
        payload = {kind.value: original["payload"]} if original["payload"] else {}
        return copy, {"type": kind, "text": original["text"], "forwarded": forwarded, **payload}

    async def write(self, db: Db) -> None:
        """Write the new attachments, when their messages are written."""
        if self._copies:
            await db.fetch(_WRITE_COPIES, as_json(self._copies).decode())


def _key(actor: Actor, data: ForwardCreate) -> tuple[UUID, UUID, int]:
    return actor.id, data.from_chat_id, data.from_seq
