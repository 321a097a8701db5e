"""Makes pictures for tests, with everything in them that has to be removed."""

import struct
import zlib
from functools import cache
from io import BytesIO
from typing import Any

from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

SECRET = b"hidden-place-55.7558-37.6173"
TRAILER = b"<script>hidden-place-55.7558-37.6173</script>"
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + SECRET + b"</x:xmpmeta>"
FORMATS = ["JPEG", "PNG", "WEBP", "GIF"]
ORIENTATION = 0x0112

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 255, 255)


def corners(size: tuple[int, int] = (60, 40), mode: str = "RGB") -> Image.Image:
    """A picture with another colour in each quarter: red, green above blue, white."""
    width, height = size
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (width // 2, 0, width, height))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image.convert(mode)


def colours(data: bytes) -> list[tuple[int, int, int]]:
    """The colours of the four quarters row by row, rounded to those of `corners`."""
    image = Image.open(BytesIO(data)).convert("RGB")
    width, height = image.size
    points = [(width // 4, height // 4), (3 * width // 4, height // 4)]
    points += [(x, 3 * height // 4) for x, _ in points]
    return [nearest(image.getpixel(point)) for point in points]  # type: ignore[arg-type]  # RGB is three numbers


def nearest(pixel: tuple[int, int, int]) -> tuple[int, int, int]:
    return min(
        (RED, GREEN, BLUE, WHITE), key=lambda colour: sum((a - b) ** 2 for a, b in zip(pixel, colour, strict=True))
    )


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int = 1) -> Image.Exif:
    made = Image.Exif()
    made[ORIENTATION] = orientation
    made[0x010E] = SECRET.decode()
    made.get_ifd(0x8825)[29] = SECRET.decode()  # the date of the GPS fix
    return made


@cache
def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """A profile in which red is blue, so that its use is visible. Pillow has none with other primaries."""
    made = bytearray(profile())
    red, blue = made.index(b"rXYZ"), made.index(b"bXYZ")
    made[red : red + 4], made[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(made)


def loaded(kind: str, orientation: int = 1, image: Image.Image | None = None) -> bytes:
    """A picture with every kind of metadata that its format knows, and with bytes after its end."""
    image = image or corners()
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", SECRET.decode())
    notes.add_itxt("XML:com.adobe.xmp", XMP.decode())
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"exif": exif(orientation), "xmp": XMP, "comment": SECRET, "icc_profile": profile(), "quality": 95},
        "PNG": {"exif": exif(orientation), "pnginfo": notes, "icc_profile": profile()},
        "WEBP": {"exif": exif(orientation), "xmp": XMP, "icc_profile": profile(), "quality": 95},
        "GIF": {"comment": SECRET},
    }
    data = encoded(image, kind, **options[kind])
    assert data.count(SECRET) > 0, f"a {kind} without anything to hide proves nothing"
    return data + TRAILER


def animation(kind: str) -> bytes:
    """Three frames that loop forever, with metadata and a trailer."""
    frames = [Image.new("RGB", (64, 48), colour) for colour in (RED, GREEN, BLUE)]
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", SECRET.decode())
    options: dict[str, Any] = {
        "GIF": {"comment": SECRET},
        "WEBP": {"exif": exif(), "xmp": XMP, "icc_profile": profile()},
        "PNG": {"exif": exif(), "pnginfo": notes, "icc_profile": profile()},
    }[kind]
    return (
        encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=[100, 200, 300], loop=0, **options)
        + TRAILER
    )


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_header(width: int, height: int, colour: int = 2) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))


def bomb(width: int, height: int) -> bytes:
    """A transparent PNG of one colour: a decoder writes a thousand bytes for each of its bytes."""
    packer = zlib.compressobj(9)
    line = bytes(4 * width + 1)
    content = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    return png_header(width, height, 6) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def many_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG that refines the same pixels again and again: each scan costs few bytes and much time."""
    data = encoded(Image.new("RGB", (width, height), RED), "JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * scans + data[end:]


def photo(size: tuple[int, int]) -> Image.Image:
    """Grain over a gradient: as JPEG it has about the size of a photo of a phone."""
    grain = Image.effect_noise((1024, 1024), 30).convert("RGB")
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    for x in range(0, size[0], 1024):
        for y in range(0, size[1], 1024):
            area = (x, y, min(x + 1024, size[0]), min(y + 1024, size[1]))
            part = grain.crop((0, 0, area[2] - x, area[3] - y))
            image.paste(Image.blend(image.crop(area), part, 0.3), area)
    return image


def screenshot(size: tuple[int, int]) -> Image.Image:
    """Windows of one colour each, and lines of text."""
    image = Image.new("RGB", size, (30, 40, 60))
    draw = ImageDraw.Draw(image)
    for window in range(3):
        left, top = 200 + window * size[0] // 4, 100 + window * size[1] // 4
        draw.rectangle((left, top, left + size[0] // 3, top + size[1] // 3), "white")
        for row in range(40):
            draw.text((left + 10, top + 10 + 14 * row), f"{row} The quick brown fox jumps over the lazy dog", "black")
    return image
