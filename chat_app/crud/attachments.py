"""Files that messages carry: uploaded first, then sent. A file is written before its row, and removed after it."""

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, BinaryIO, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlmodel import select

from chat_app.database import Db, Transaction, note, remove_files
from chat_app.errors import AttachmentNotFound, TooLarge, UnsupportedMediaType
from chat_app.logs import log_authorized
from chat_app.media import images
from chat_app.media.links import attachment_url
from chat_app.media.sniff import picture_format
from chat_app.media.storage import Storage
from chat_app.media.worker import in_worker
from chat_app.models import Attachment
from chat_app.models.attachments import AttachmentBase, AttachmentRead
from chat_app.models.base import LIMITS, new_id
from chat_app.models.sessions import Actor
from chat_app.models.wire_json import construct

HEAD_BYTES = 4096
PREVIEW_BYTES = 200_000
CONTENT_TYPE = re.compile(r"[a-z]{1,20}/[a-z0-9][a-z0-9.+_-]{0,100}")
ANY_TYPE = "application/octet-stream"


class Upload(NamedTuple):
    """A file as a client sends it: unchecked."""

    file: BinaryIO
    name: str | None
    content_type: str | None
    duration: float | None = None
    # Hints of the client. A picture has its own size and preview.
    width: int | None = None
    height: int | None = None
    waveform: list[int] | None = None
    preview: BinaryIO | None = None


@asynccontextmanager
async def stored_attachment(actor: Actor, storage: Storage, upload: Upload) -> AsyncIterator[Attachment]:
    """The row of a stored file. Call create_attachment inside: if that fails, the file is removed.

    Call this outside of a transaction: it takes a while. Raises BadImage, TooLarge, UnsupportedMediaType.
    """
    attachment = await _row(actor, upload)
    files: dict[str, bytes | BinaryIO] = {attachment.key: upload.file}
    preview = await _clean_preview(actor, upload.preview) if upload.preview else None
    if picture := await _clean_picture(actor, attachment, upload.file):
        attachment.size, attachment.width, attachment.height = len(picture.data), picture.width, picture.height
        attachment.content_type = picture.content_type
        files[attachment.key], preview = picture.data, picture.preview
    if preview:
        attachment.preview_key = f"{attachment.key}-preview"
        files[attachment.preview_key] = preview
    async with storage.stored(files):
        yield attachment


async def create_attachment(db: Transaction, attachment: Attachment) -> AttachmentRead:
    """Write the row of a stored file."""
    db.add(attachment)
    await db.flush()
    note(db, attachment_id=attachment.id)
    return attachment_read(attachment.model_dump())


async def get_attachment(db: Transaction, actor: Actor, attachment_id: UUID) -> AttachmentRead:
    """An attachment with fresh addresses: the actor's own until it is sent, then for everybody who sees its message.

    Raises AttachmentNotFound.
    """
    return attachment_read((await _find(db, attachment_id, _IS_OWN_OR_VISIBLE, actor=actor.id)).model_dump())


async def find_attachment(db: Transaction, attachment_id: UUID) -> Attachment:
    """For clients with its signed address. Raises AttachmentNotFound once it is deleted, or the chat is."""
    return await _find(db, attachment_id, f"(attachment.chat_id IS NULL OR {_IS_LIVE})")


async def lock_attachments(db: Db, attachment_ids: Collection[UUID]) -> dict[UUID, dict[str, Any]]:
    """Those that exist, by id, locked until the commit."""
    lock = "SELECT * FROM attachment WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE"
    return {row["id"]: dict(row) for row in await db.fetch(lock, list(attachment_ids))}


async def drop_attachment(db: Transaction, chat_id: UUID, seq: int) -> None:
    """Take the attachment from a message that is being deleted; its last copy takes the files along with the commit."""
    await db.fetch(_LOCK_COPIES, chat_id, seq)
    remove_files(db, [key for keys in await db.fetch(_DROP, chat_id, seq) for key in keys if key is not None])


# A message that was forwarded shares its files. Of two copies that are deleted at a time one waits for the other.
_LOCK_COPIES = """
SELECT FROM attachment WHERE key = (SELECT key FROM attachment WHERE chat_id = $1 AND seq = $2) ORDER BY id FOR UPDATE
"""
_DROP = """
WITH dropped AS (DELETE FROM attachment WHERE chat_id = $1 AND seq = $2 RETURNING id, key, preview_key)
SELECT key, preview_key FROM dropped
WHERE NOT EXISTS (SELECT FROM attachment AS copy WHERE copy.key = dropped.key AND copy.id != dropped.id)
"""


def attachment_read(row: Mapping[str, Any]) -> AttachmentRead:
    """The form for clients, with addresses that are valid for a while."""
    fields = {name: row[name] for name in AttachmentBase.model_fields}
    fields["url"] = attachment_url(row["id"], "file")
    fields["preview_url"] = attachment_url(row["id"], "preview") if row["preview_key"] else None
    return construct(AttachmentRead, fields)


_IS_LIVE = """EXISTS (
    SELECT FROM message JOIN chat ON chat.id = message.chat_id
    WHERE message.chat_id = attachment.chat_id AND message.seq = attachment.seq
        AND message.deleted_at IS NULL AND chat.deleted_at IS NULL
)"""
_IS_OWN_OR_VISIBLE = f"""(
    attachment.chat_id IS NULL AND owner_id = :actor OR {_IS_LIVE} AND EXISTS (
        SELECT FROM membership WHERE membership.chat_id = attachment.chat_id AND user_id = :actor
            AND removed_at IS NULL AND visible_from_seq <= attachment.seq
    )
)"""


async def _find(db: Transaction, attachment_id: UUID, condition: str, **values: UUID) -> Attachment:
    statement = select(Attachment).where(Attachment.id == attachment_id, text(condition).bindparams(**values))
    found = (await db.exec(statement)).first()
    if found is None:
        raise AttachmentNotFound
    log_authorized(attachment_id=attachment_id)
    return found


async def _row(actor: Actor, upload: Upload) -> Attachment:
    size = await asyncio.to_thread(upload.file.seek, 0, os.SEEK_END)
    if size > LIMITS["attachment_bytes"]:
        raise TooLarge(f"A file has at most {LIMITS['attachment_bytes'] // 2**20} MB.")
    attachment_id = new_id()
    return Attachment(
        id=attachment_id,
        owner_id=actor.id,
        name=_plain_name(upload.name),
        content_type=_plain_type(upload.content_type),
        size=size,
        **{hint: getattr(upload, hint) for hint in ("duration", "width", "height", "waveform")},
        # Unguessable, so that even a bucket open to the world gives nothing away.
        key=f"attachments/{attachment_id.hex}/{secrets.token_hex(16)}",
    )


async def _clean_picture(actor: Actor, attachment: Attachment, file: BinaryIO) -> images.Picture | None:
    """The picture without metadata. None for another file: a picture that can't be cleaned gets a type that no browser
    shows and that only a message of the type `file` carries.
    """
    await asyncio.to_thread(file.seek, 0)
    head = await asyncio.to_thread(file.read, HEAD_BYTES)
    await asyncio.to_thread(file.seek, 0)
    with suppress(UnsupportedMediaType):
        if picture_format(head):
            return await in_worker(images.clean, await asyncio.to_thread(file.read), owner=actor.id)
        if not attachment.content_type.startswith("image/"):
            return None
    attachment.content_type = ANY_TYPE
    return None


async def _clean_preview(actor: Actor, file: BinaryIO) -> bytes | None:
    """A preview as pictures have it: a JPEG without metadata. Raises BadImage, TooLarge, UnsupportedMediaType."""
    data = await asyncio.to_thread(file.read, PREVIEW_BYTES + 1)
    if len(data) > PREVIEW_BYTES:
        raise TooLarge("A preview has at most 200 KB.")
    if picture_format(data) != "JPEG":
        raise UnsupportedMediaType("A preview is a JPEG.")
    picture = await in_worker(images.clean, data, owner=actor.id)
    return picture and picture.preview


def _plain_name(name: str | None) -> str:
    """The last part of a path, in one line; a long name loses its middle and keeps its ending."""
    last = re.split(r"[/\\]", name or "")[-1]
    shown = "".join(letter if letter.isprintable() else " " * letter.isspace() for letter in last).strip()
    if shown.strip(".") == "":
        return "file"
    return shown if len(shown) <= 255 else shown[:235] + shown[-20:]


def _plain_type(content_type: str | None) -> str:
    plain = (content_type or "").partition(";")[0].strip().lower()
    return plain if CONTENT_TYPE.fullmatch(plain) else ANY_TYPE
