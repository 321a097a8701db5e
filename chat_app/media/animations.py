"""Removes metadata from GIF and WebP, animated ones too. The encoded frames stay untouched."""

from collections.abc import Iterator

from chat_app.errors import BadImage
from chat_app.media.jpeg import exif

LOOP = b"\x0bNETSCAPE2.0\x03\x01"
# The flags of a WebP. Animation and transparency are kept.
WEBP_FLAGS, WEBP_PROFILE, WEBP_EXIF = 0x02 | 0x10, 0x20, 0x08
PIXELS = (b"ALPH", b"VP8 ", b"VP8L")


class Reader:
    """The bytes of a picture from its begin on."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        if len(taken) < size:
            raise BadImage("The picture is cut off.")
        self.at += size
        return taken

    def blocks(self) -> bytes:
        """The sub-blocks of a GIF from here, with the empty block that ends them."""
        start = self.at
        while size := self.take(1)[0]:
            self.take(size)
        return self.data[start : self.at]


def clean_gif(data: bytes, *_: object) -> bytes:
    """Keep frames, timing and loop. Drop comments, application data and bytes after the end. Raises BadImage.

    The format has neither an orientation nor a profile.
    """
    source = Reader(data)
    header = source.take(13)
    kept = [header, source.take(_table_size(header[10]))]
    while (kind := source.take(1)) != b";":
        if kind == b",":
            frame = source.take(9)
            kept += [kind, frame, source.take(_table_size(frame[8])), source.take(1), source.blocks()]
        elif kind == b"!":
            label, blocks = source.take(1), source.blocks()
            is_timing = label == b"\xf9" and len(blocks) == 6
            if is_timing or (label == b"\xff" and blocks.startswith(LOOP) and len(blocks) == 17):
                kept += [kind, label, blocks]
        else:
            raise BadImage
    return b"".join([*kept, b";"])


def _table_size(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def is_animated_webp(data: bytes) -> bool:
    return data[12:16] == b"VP8X" and bool(int.from_bytes(data[20:21]) & 0x02)


def clean_webp(data: bytes, orientation: int = 1, profile: bytes | None = None) -> bytes:
    """Keep canvas, loop and frames. Of the metadata keep only the orientation and the profile. Raises BadImage."""
    kept = []
    more = WEBP_PROFILE * bool(profile) | WEBP_EXIF * (orientation > 1)
    for name, content in _chunks(data[12 : 8 + int.from_bytes(data[4:8], "little")]):
        if name == b"VP8X":
            flags = int.from_bytes(content[:1]) & WEBP_FLAGS | more
            kept.append(_chunk(name, flags.to_bytes(4, "little") + content[4:10]))
            kept.append(_chunk(b"ICCP", profile) if profile else b"")
        elif name == b"ANIM":
            kept.append(_chunk(name, content[:6]))
        elif name == b"ANMF":
            parts = [_chunk(*part) for part in _chunks(content[16:]) if part[0] in PIXELS]
            kept.append(_chunk(name, content[:16] + b"".join(parts)))
        elif name in PIXELS:
            kept.append(_chunk(name, content))
    kept.append(_chunk(b"EXIF", exif(orientation)) if orientation > 1 else b"")
    return _chunk(b"RIFF", b"WEBP" + b"".join(kept))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    source = Reader(data)
    while source.at < len(data):
        name, size = source.take(4), int.from_bytes(source.take(4), "little")
        yield name, source.take(size)
        source.at += size % 2


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)
