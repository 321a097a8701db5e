"""Removes metadata from PNG, animated ones too. The encoded pixels stay untouched."""

import zlib

from chat_app.media.animations import Reader
from chat_app.media.jpeg import exif

# The chunks of pixels, frames and colours. All but the pixels are at most as large as a palette.
KEPT = set(b"IDAT fdAT IHDR PLTE acTL fcTL tRNS gAMA cHRM sRGB cICP mDCV cLLI".split())
PALETTE_BYTES = 768


def clean_png(data: bytes, orientation: int, profile: bytes | None) -> bytes:
    """Keep pixels, frames and colours. Of the metadata keep only the orientation and the profile. Raises BadImage."""
    source = Reader(data)
    kept, name = [source.take(8)], b""
    while name != b"IEND":
        size = int.from_bytes(source.take(4))
        name, content, _ = source.take(4), source.take(size), source.take(4)
        if name in KEPT and (name[1:] == b"DAT" or size <= PALETTE_BYTES):
            kept.append(_chunk(name, content))
        if name == b"IHDR":
            kept.append(_chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)) if profile else b"")
            kept.append(_chunk(b"eXIf", exif(orientation)) if orientation > 1 else b"")
    return b"".join([*kept, _chunk(b"IEND", b"")])


def _chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)
