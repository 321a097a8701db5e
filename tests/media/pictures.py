"""Pictures for tests: made here, with everything in them that must not come out again."""

from functools import cache
from io import BytesIO
from typing import Any

from PIL import Image, ImageCms, PngImagePlugin

SECRET = b"hidden-place-55.7558-37.6173"
TRAILER = b"<script>hidden-place-55.7558-37.6173</script>"
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + SECRET + b"</x:xmpmeta>"
FORMATS = ["JPEG", "PNG", "WEBP", "GIF"]
ORIENTATION = 0x0112

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 255, 255)


def corners(size: tuple[int, int] = (60, 40), mode: str = "RGB") -> Image.Image:
    """Another colour in each quarter: red, green above blue, white."""
    width, height = size
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (width // 2, 0, width, height))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image.convert(mode)


def colours(data: bytes) -> list[tuple[int, int, int]]:
    """The colours of the four quarters, rounded to what `corners` paints: row by row."""
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
    """Three frames that loop for ever, with metadata and a trailer."""
    frames = [Image.new("RGB", (64, 48), colour) for colour in (RED, GREEN, BLUE)]
    options = {"GIF": {"comment": SECRET}, "WEBP": {"exif": exif(), "xmp": XMP, "icc_profile": profile()}}[kind]
    return (
        encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=[100, 200, 300], loop=0, **options)
        + TRAILER
    )
