"""Serves the files: avatars are public, attachments need a signed address."""

import re
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from chat_app.api.deps import NodeDep
from chat_app.crud.attachments import find_attachment
from chat_app.crud.avatars import SIZES
from chat_app.errors import NotFound
from chat_app.media.links import is_signed
from chat_app.media.sniff import picture_format
from chat_app.media.storage import Storage

router = APIRouter(prefix="/media", include_in_schema=False)

AVATAR_KEY = re.compile(r"[0-9a-f]{40}\.(jpg|png)")
AVATAR_TYPES = {"jpg": "image/jpeg", "png": "image/png"}
# No type that could run a script. Browsers parse some types with a plus sign as XML.
INLINE = re.compile(r"image/(jpeg|png|webp|gif)|(video|audio)/[a-z0-9.-]+|application/pdf")
RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@router.api_route("/avatars/{key}/{size}", methods=["GET", "HEAD"])
async def get_avatar_picture(request: Request, node: NodeDep, key: str, size: str) -> Response:
    """Public and immutable: a new picture has a new address."""
    found = AVATAR_KEY.fullmatch(key)
    if found is None or size not in SIZES:
        raise NotFound
    path, content_type = f"avatars/{key}/{size}", AVATAR_TYPES[found[1]]
    if size == "original":  # of any format
        head = b"".join([chunk async for chunk in (await node.storage.get(path, (0, 12))).chunks])
        content_type = f"image/{picture_format(head)}".lower()
    headers = {
        "Content-Type": content_type,
        "Cache-Control": "public, max-age=31536000, immutable",
        "ETag": f'"{key}-{size}"',
    }
    return await _answer(request, node.storage, path, headers)


@router.api_route("/attachments/{attachment_id}", methods=["GET", "HEAD"])
async def get_attachment_file(
    request: Request, node: NodeDep, attachment_id: str, variant: str = "", expires: str = "", signature: str = ""
) -> Response:
    """Needs no header, so that it opens in <img> and <video>; 404 for an address that is wrong or too old."""
    if not is_signed(attachment_id, variant, expires, signature):
        raise NotFound
    async with node.database.transaction() as db:
        attachment = await find_attachment(db, UUID(attachment_id))
    headers = {"Cache-Control": "private, max-age=3600", "ETag": f'"{attachment.id.hex}-{variant}"'}
    if variant == "preview" and attachment.preview_key:
        return await _answer(request, node.storage, attachment.preview_key, headers | {"Content-Type": "image/jpeg"})
    shown = "inline" if INLINE.fullmatch(attachment.content_type) else "attachment"
    headers |= {
        "Content-Type": attachment.content_type,
        "Content-Disposition": f"{shown}; filename*=UTF-8''{quote(attachment.name, safe='')}",
        "Accept-Ranges": "bytes",
    }
    return await _answer(request, node.storage, attachment.key, headers, size=attachment.size)


async def _answer(
    request: Request, storage: Storage, key: str, headers: dict[str, str], *, size: int | None = None
) -> Response:
    """The file. Ranges need `size`."""
    headers["X-Content-Type-Options"] = "nosniff"
    # Browsers show no PDF in a sandbox; its own viewer is one.
    if headers["Content-Type"] != "application/pdf":
        headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    if headers["ETag"] in re.findall(r'"[^"]*"', request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    part = _part(request, headers["ETag"], size) if size is not None else None
    if part and part[0] >= part[1]:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
    stored = await storage.get(key, part)
    headers["Content-Length"] = str(part[1] - part[0] if part else stored.size)
    if part:
        headers["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{size}"
    status = 206 if part else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(stored.chunks, status, headers)


def _part(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """The requested range as (start, end), end excluded. None: the whole file. start >= end: not satisfiable."""
    asked = RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or request.headers.get("if-range", etag) != etag:
        return None
    first, last = asked.groups()
    if first and last and int(last) < int(first):
        return None
    if first:
        return int(first), min(int(last) + 1, size) if last else size
    return (max(0, size - int(last)), size) if last else None
