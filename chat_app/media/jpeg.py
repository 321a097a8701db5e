"""Removes metadata from JPEGs. The encoded pixels stay untouched."""

import re
import struct

from chat_app.errors import BadImage

# A marker. Within a scan an FF followed by 00, FF or D0 to D7 is none.
MARKER = re.compile(rb"\xff[^\0\xff\xd0-\xd7]", re.DOTALL)
START, END, SCAN, TABLE, RESTART, APP0, APP14 = 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xEE
# These segments and the frame headers are kept.
KEPT = {SCAN, TABLE, RESTART} | set(range(0xC0, 0xD0))
JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
ADOBE = b"Adobe\0\x64\0\0\0\0"
# The tags of a profile that are kept: primaries, white and curves, each with its largest size.
PROFILE_TAGS = dict.fromkeys((b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt"), 20)
PROFILE_TAGS |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), 8204)


def clean_jpeg(data: bytes, orientation: int, profile: bytes | None) -> bytes:
    """Keep frame, tables and scans. Of the metadata keep only the orientation and the profile. Raises BadImage."""
    has_jfif = data[3] == APP0 and data[6:11] == JFIF[:5]
    kept = [data[:2], _segment(APP0, JFIF) if has_jfif else b""]
    kept.append(_segment(0xE1, b"Exif\0\0" + exif(orientation)) if orientation > 1 else b"")
    kept.append(_segment(0xE2, b"ICC_PROFILE\0\1\1" + profile) if profile else b"")
    at, kind = 2, START
    while kind != END:
        found = MARKER.search(data, at)
        if found is None:
            raise BadImage("The picture is cut off.")
        kept.append(data[at : found.start()] if kind == SCAN else b"")
        at, kind = found.end(), found[0][1]
        if kind != END:
            size = int.from_bytes(data[at : at + 2])
            content = data[at + 2 : at + size]
            if kind == START or size < 2 or len(content) < size - 2:
                raise BadImage
            at += size
            if kind in KEPT:
                kept.append(_segment(kind, content))
            elif kind == APP14 and content.startswith(ADOBE[:5]):
                kept.append(_segment(APP14, ADOBE + content[11:12]))
    return b"".join([*kept, b"\xff\xd9"])


def exif(orientation: int) -> bytes:
    """EXIF of nothing but an orientation."""
    return b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0%c\0\0\0\0\0\0" % orientation


def plain_profile(profile: bytes) -> bytes | None:
    """The same colours without texts and dates. None unless it is a display profile with primaries and curves."""
    count = int.from_bytes(profile[128:132])
    table = profile[132 : 132 + 12 * count]
    if profile[12:24] != b"mntrRGB XYZ " or len(table) < 12 * count or b"A2B0" in table:
        return None
    entries, contents, at = b"", b"", 132 + 12 * len(PROFILE_TAGS)
    found = {name: (start, size) for name, start, size in struct.iter_unpack(">4sII", table)}
    for name, largest in PROFILE_TAGS.items():
        start, size = found.get(name, (0, 0))
        if not 0 < size <= largest:
            return None
        entries += struct.pack(">4sII", name, at + len(contents), size)
        contents += profile[start : start + size].ljust(size + -size % 4, b"\0")
    head = struct.pack(
        ">I4x16s12x4s28x12s48xI", at + len(contents), profile[8:24], b"acsp", profile[68:80], len(PROFILE_TAGS)
    )
    return head + entries + contents


def _segment(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, kind, len(content) + 2) + content
