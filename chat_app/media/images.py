"""Pictures: bytes in, clean bytes out. Pure, and for the worker process: a hostile picture may eat memory and time."""

import binascii
import hashlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import NamedTuple

from PIL import Image, ImageCms, ImageOps

from chat_app.errors import BadImage, ChatError, TooLarge
from chat_app.media.animations import clean_gif, clean_webp, is_animated_webp
from chat_app.media.sniff import picture_format

DATA_URI = re.compile(rb"data:[^,]{0,200};base64,", re.IGNORECASE)
MAX_AVATAR_BYTES = 10 * 2**20
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
OPTIONS = {"JPEG": {"quality": 90}, "PNG": {"compress_level": 4}, "WEBP": {"quality": 90}}
# Decoded that is 160 MB, and twice that while it is turned.
MAX_PIXELS = 40_000_000
MAX_SIDE = 16_000
# Some pictures grow a lot when their transparency is kept without loss.
MAX_BYTES = 40_000_000
PREVIEW_SIZE = (400, 400)


class Pictures(NamedTuple):
    """An avatar in its four sizes; `digest` is that of what came in, `suffix` names the format of all four."""

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


def avatars_of_text(image: str) -> Pictures:
    """From base64, with or without the head of a data URI. Raises BadImage, TooLarge."""
    try:
        text = image.encode("ascii").translate(None, b" \t\r\n")
        found = DATA_URI.match(text)
        data = binascii.a2b_base64(text[found.end() :] if found else text, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise BadImage("This is not base64.") from error
    if len(data) > MAX_AVATAR_BYTES:
        raise TooLarge("A picture has at most 10 MB.")
    return avatars(data)


def avatars(data: bytes) -> Pictures:
    """JPEG, or PNG when something shines through. Raises BadImage."""
    with _opened(data) as image:
        pixels = _pixels(image)
        suffix, kind = ("png", "PNG") if pixels.mode == "RGBA" else ("jpg", "JPEG")
        # Each is cut from the one before: the full picture is worked through only once.
        large = ImageOps.fit(pixels, (400, 400))
        return Pictures(
            hashlib.sha256(data).digest(),
            suffix,
            _encoded(pixels, kind),
            _encoded(large, kind),
            _encoded(ImageOps.fit(large, (100, 100)), kind),
            _encoded(ImageOps.fit(large, (50, 50)), kind),
        )


def clean(data: bytes) -> Picture | None:
    """The same picture without metadata, upright, in its own format; None for what is no picture.

    Raises BadImage for a broken picture, UnsupportedMediaType for one in any other format.
    """
    kind = picture_format(data)
    if kind is None:
        return None
    if kind == "GIF":
        data = clean_gif(data)
    elif kind == "WEBP" and is_animated_webp(data):
        data = clean_webp(data)
    else:
        with _opened(data) as image:
            data = _encoded(_pixels(image), kind)
    with _opened(data) as image:
        return Picture(data, f"image/{kind.lower()}", *image.size, _preview(image))


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Whatever Pillow raises, here or during the work on the picture, means that it can't be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
                    raise BadImage("A picture has at most 40 million pixels, and 16,000 on a side.")
                yield image
    except ChatError:
        raise
    except Exception as error:
        raise BadImage from error


def _pixels(image: Image.Image) -> Image.Image:
    """Upright, in sRGB, as RGB or RGBA of eight bits: all that is to be seen and nothing else."""
    profile = image.info.get("icc_profile")
    image.load()
    with suppress(Exception):  # broken metadata goes; the picture is as good as any other
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        # Pillow would cut sixteen bits off at 255.
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
        return image  # a profile for other colours than these, or a broken one
    return converted or image


def _preview(image: Image.Image) -> bytes:
    image.draft("RGB", (2 * PREVIEW_SIZE[0], 2 * PREVIEW_SIZE[1]))  # of a JPEG, decode no more than that needs
    pixels = _pixels(image)
    pixels.thumbnail(PREVIEW_SIZE)
    if pixels.mode == "RGBA":
        paper = Image.new("RGBA", pixels.size, "white")
        pixels = Image.alpha_composite(paper, pixels).convert("RGB")
    return _encoded(pixels, "JPEG")


def _encoded(image: Image.Image, kind: str) -> bytes:
    out = BytesIO()
    image.save(out, kind, **OPTIONS[kind])
    if out.tell() > MAX_BYTES:
        raise BadImage("This picture is too large without its metadata.")
    return out.getvalue()
