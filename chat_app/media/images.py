"""Cleans and scales pictures: bytes in, bytes out. For worker processes, as hostile pictures use memory and time."""

import binascii
import hashlib
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import NamedTuple

from PIL import ExifTags, Image, ImageCms, ImageOps

from chat_app.errors import BadImage, ChatError, TooLarge
from chat_app.media.animations import clean_gif, clean_webp, is_animated_webp
from chat_app.media.job import Large
from chat_app.media.jpeg import clean_jpeg, plain_profile
from chat_app.media.png import clean_png
from chat_app.media.sniff import picture_format

DATA_URI = re.compile(rb"data:[^,]{0,200};base64,", re.IGNORECASE)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
# They keep the encoded pixels of a format.
CLEANERS: dict[str | None, Callable[..., bytes]]
CLEANERS = {"JPEG": clean_jpeg, "PNG": clean_png, "WEBP": clean_webp, "GIF": clean_gif}
# Higher compression doubles the CPU time and saves a few percent.
OPTIONS = {"JPEG": {"quality": 90}, "PNG": {"compress_level": 2}, "WEBP": {"quality": 90, "method": 0}}
# Decoded, these are 160 MB, and twice that during a rotation. A large JPEG is decoded only at a smaller scale.
MAX_PIXELS, MAX_JPEG_PIXELS = 40_000_000, 64_000_000
# A hostile picture has thousands of pixels for each byte. Smaller ones may, for example of a single colour.
LARGE_PIXELS, MAX_PIXELS_PER_BYTE = 12_000_000, 200
MAX_SIDE = 16_000
# Lossless transparency makes some pictures much larger.
MAX_BYTES = 40_000_000
PREVIEW_SIZE = (400, 400)


class Pictures(NamedTuple):
    """An avatar: the original, and three sizes of the format that `suffix` names. `digest` is that of the upload."""

    digest: bytes
    suffix: str
    original: bytes
    large: bytes
    medium: bytes
    small: bytes


class Picture(NamedTuple):
    """An attached picture without metadata. `preview` is a JPEG."""

    data: bytes
    content_type: str
    width: int
    height: int
    preview: bytes


def avatars_of_text(image: str, most_bytes: int, *, is_large: bool = False) -> Pictures:
    """Decode base64, with or without the prefix of a data URI. Raises BadImage, TooLarge, Large."""
    try:
        text = image.encode("ascii").translate(None, b" \t\r\n")
        found = DATA_URI.match(text)
        data = binascii.a2b_base64(text[found.end() :] if found else text, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise BadImage("This is not base64.") from error
    if len(data) > most_bytes:
        raise TooLarge(f"A picture has at most {most_bytes // 2**20} MB.")
    return avatars(data, is_large=is_large)


def avatars(data: bytes, *, is_large: bool = False) -> Pictures:
    """The original without metadata, and JPEGs, or PNGs for a picture with transparency. Raises BadImage, Large."""
    with _opened(data, is_large=is_large) as image:
        original, pixels = _original(image, data), _pixels(image, (400, 400))
        suffix, kind = ("png", "PNG") if pixels.mode == "RGBA" else ("jpg", "JPEG")
        # Each size is made of the one before, so the full picture is scaled only once.
        large = ImageOps.fit(pixels, (400, 400))
        scaled = [_encoded(ImageOps.fit(large, (side, side)), kind) for side in (400, 100, 50)]
        return Pictures(hashlib.sha256(data).digest(), suffix, original, *scaled)


def clean(data: bytes, *, is_large: bool = False) -> Picture | None:
    """Remove the metadata. Orientation and format stay. None for a file that is not a picture.

    Raises BadImage for a broken picture, UnsupportedMediaType for an unsupported format, Large.
    """
    kind = picture_format(data)
    if kind is None:
        return None
    is_copied = kind == "GIF" or (kind == "WEBP" and is_animated_webp(data))
    if is_copied:
        data = CLEANERS[kind](data)
    with _opened(data, is_large=is_large) as image:
        copied = data if is_copied else _copied(image, data)
        size = image.size if _orientation(image) < 5 else image.size[::-1]
        pixels = _pixels(image, PREVIEW_SIZE if copied else None)
        if copied is None:
            copied, size = _encoded(pixels, kind), pixels.size
        return Picture(copied, f"image/{kind.lower()}", *size, _preview(pixels))


@contextmanager
def _opened(data: bytes, *, is_large: bool) -> Iterator[Image.Image]:
    """Open a picture. Any error of Pillow, also in the body of the `with`, becomes BadImage."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                _check_size(image, len(data), is_large=is_large)
                yield image
    except (ChatError, Large):
        raise
    except Exception as error:
        raise BadImage from error


def _check_size(image: Image.Image, size: int, *, is_large: bool) -> None:
    pixels = image.width * image.height
    if pixels > (MAX_JPEG_PIXELS if _is_jpeg(image) else MAX_PIXELS) or max(image.size) > MAX_SIDE:
        raise BadImage("A picture has at most 40 million pixels, a JPEG 64 million, and 16,000 on a side.")
    if pixels > max(LARGE_PIXELS, size * MAX_PIXELS_PER_BYTE):
        raise BadImage("A picture of more than 12 million pixels has at most 200 for each byte of the file.")
    if pixels > LARGE_PIXELS and not is_large:
        raise Large


def _is_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, from 1 to 8. From 5 on width and height are swapped."""
    with suppress(Exception):
        return range(9).index(image.getexif().get(ExifTags.Base.Orientation, 1)) or 1
    return 1


def _original(image: Image.Image, data: bytes) -> bytes:
    """The picture that came: format, pixels and frames stay, metadata goes. Raises BadImage if that can't be done."""
    profile = image.info.get("icc_profile")
    plain = plain_profile(profile) if profile else None
    # One without this mark is none, and is ignored by every viewer.
    if profile and plain is None and profile[36:40] == b"acsp":
        raise BadImage("The colours of this picture need a profile with metadata: save the picture in sRGB.")
    return CLEANERS[picture_format(data)](data, _orientation(image), plain)


def _copied(image: Image.Image, data: bytes) -> bytes | None:
    """A large JPEG without metadata, its pixels untouched. None for a picture that has to be encoded again."""
    if not _is_jpeg(image) or image.width * image.height <= LARGE_PIXELS:
        return None
    profile = image.info.get("icc_profile")
    plain = plain_profile(profile) if profile else None
    return None if profile and plain is None else clean_jpeg(data, _orientation(image), plain)


def _pixels(image: Image.Image, wanted: tuple[int, int] | None = None) -> Image.Image:
    """The picture upright, in sRGB, as RGB or RGBA of eight bits, without any metadata.

    If only a smaller size is `wanted`, a JPEG is decoded at a smaller scale.
    """
    if wanted:
        image.draft("RGB", (2 * wanted[0], 2 * wanted[1]))
    profile = image.info.get("icc_profile")
    image.load()
    with suppress(Exception):  # broken metadata is dropped
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        # Pillow clips sixteen bits at 255 instead of scaling them.
        image = image.convert("I").point(lambda level: level / 256).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() == (255, 255):
            image = image.convert("RGB")
    image = _in_srgb(image, profile) if profile else image
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGB")
    image.info = {}
    return image


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    if image.mode == "P":
        image = image.convert("RGB")
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError):
        return image  # a broken profile, or one for another colour model
    return converted or image


def _preview(pixels: Image.Image) -> bytes:
    pixels.thumbnail(PREVIEW_SIZE)
    if pixels.mode == "RGBA":
        paper = Image.new("RGBA", pixels.size, "white")
        pixels = Image.alpha_composite(paper, pixels).convert("RGB")
    return _encoded(pixels, "JPEG")


def _encoded(image: Image.Image, kind: str) -> bytes:
    out = BytesIO()
    image.save(out, kind, **OPTIONS[kind])
    if out.tell() > MAX_BYTES:
        raise BadImage("This picture is too large after its metadata was removed.")
    return out.getvalue()
