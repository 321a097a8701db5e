"""Detects picture formats by the first bytes, never by what the client declares."""

import re

from chat_app.errors import UnsupportedMediaType

# By name, the first bytes of the formats that this service can clean.
CLEANABLE = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<WEBP>RIFF.{4}WEBP)|(?P<GIF>GIF8[79]a)", re.DOTALL
)
# Formats that may carry EXIF and that this service can't clean: TIFF and the raw formats based on it, Photoshop,
# JPEG XL, JPEG 2000, JPEG XR, OpenEXR, BPG and icons.
UNCLEANABLE = (
    *(b"II*\0", b"II+\0", b"MM\0*", b"MM\0+", b"IIRO", b"IIRS", b"IIU\0", b"FUJIFILM", b"8BPS"),
    *(b"\xff\x0a", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"II\xbc", b"v/1\1", b"BPG\xfb"),
    b"\0\0\1\0",
)
# HEIC, AVIF and Canon's raw format have the boxes of an MP4 with another brand.
BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1", b"avif", b"avis", b"crx "}
BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


def picture_format(data: bytes) -> str | None:
    """JPEG, PNG, WEBP or GIF. None for a file that is not a picture. Raises UnsupportedMediaType for other pictures."""
    if found := CLEANABLE.match(data):
        return found.lastgroup
    if data.startswith(UNCLEANABLE) or _is_bmp(data) or _is_svg(data) or not BRANDS.isdisjoint(_brands(data)):
        raise UnsupportedMediaType("Pictures are accepted as JPEG, PNG, WebP and GIF.")
    return None


def _is_bmp(data: bytes) -> bool:
    # A text can begin with the same two letters.
    return data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in BMP_HEADERS


def _is_svg(data: bytes) -> bool:
    head = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return head.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in head


def _brands(data: bytes) -> set[bytes]:
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4]), 256)
    return {data[at : at + 4] for at in range(8, end, 4)}
