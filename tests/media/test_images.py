"""Pictures become upright, get the right sizes and keep nothing but what is visible."""

import struct
import zlib
from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from chat_app.errors import BadImage, UnsupportedMediaType
from chat_app.media import images
from chat_app.media.images import avatars, clean
from chat_app.media.jpeg import plain_profile
from tests.media.pictures import (
    BLUE,
    FORMATS,
    GREEN,
    ORIENTATION,
    RED,
    SECRET,
    TRAILER,
    WHITE,
    animation,
    bomb,
    chunk,
    colours,
    corners,
    encoded,
    exif,
    loaded,
    png_header,
    profile,
    swapped_profile,
)

UPRIGHT = [RED, GREEN, BLUE, WHITE]
# How a viewer that supports EXIF shows UPRIGHT pixels.
SHOWN = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}
LEFTOVERS = [SECRET, b"Exif", b"eXIf", b"EXIF", b"xmpmeta", b"XMP ", b"ICC_PROFILE", b"iCCP", b"ICCP", b"script"]


def opened(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


def pictures(data: bytes) -> dict[str, bytes]:
    made = avatars(data)._asdict()
    return {name: made[name] for name in ("original", "large", "medium", "small")}


def scaled(data: bytes) -> list[bytes]:
    """The pictures of an avatar that are made anew."""
    return list(pictures(data).values())[1:]


def assert_same_pixels(data: bytes, uploaded: bytes) -> None:
    """Format, pixels, frames and timing are those of the upload."""
    after, before = Image.open(BytesIO(data)), Image.open(BytesIO(uploaded))
    assert (after.format, after.size, after.mode) == (before.format, before.size, before.mode)
    assert getattr(after, "n_frames", 1) == getattr(before, "n_frames", 1)
    assert after.info.get("loop") == before.info.get("loop")
    for frame in range(getattr(before, "n_frames", 1)):
        after.seek(frame)
        before.seek(frame)
        assert after.tobytes() == before.tobytes()
        assert after.info.get("duration") == before.info.get("duration")


def assert_bare(data: bytes) -> None:
    assert [leftover for leftover in LEFTOVERS if leftover in data] == []
    image = opened(data)
    assert not image.getexif()
    assert not {"icc_profile", "exif", "xmp", "comment", "XML:com.adobe.xmp"} & set(image.info)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_avatar_has_four_exact_sizes(kind: str) -> None:
    made = pictures(loaded(kind))
    assert {name: opened(data).size for name, data in made.items()} == {
        "original": (60, 40),
        "large": (400, 400),
        "medium": (100, 100),
        "small": (50, 50),
    }


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (16_000, 2), (1200, 401), (49, 51)])
def test_pictures_of_any_proportion_are_cut_to_squares(size: tuple[int, int]) -> None:
    made = pictures(encoded(corners(size), "PNG"))
    assert [opened(data).size for data in made.values()] == [size, (400, 400), (100, 100), (50, 50)]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_no_avatar_keeps_metadata_or_a_trailer(kind: str, orientation: int) -> None:
    uploaded = loaded(kind, orientation)
    for data in scaled(uploaded):
        assert_bare(data)
    original = avatars(uploaded).original
    assert_same_pixels(original, uploaded)
    assert [leftover for leftover in (SECRET, b"xmpmeta", b"XMP ", b"script", b"sRGB") if leftover in original] == []
    image = opened(original)
    turned = orientation > 1 and kind != "GIF"
    assert dict(image.getexif()) == ({ORIENTATION: orientation} if turned else {})
    assert image.info.get("icc_profile") == (None if kind == "GIF" else plain_profile(profile()))
    assert len(original) < len(uploaded)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_original_of_an_animation_keeps_its_frames(kind: str) -> None:
    uploaded = animation(kind)
    original = avatars(uploaded).original
    assert opened(uploaded).n_frames == 3, "or this test means nothing"  # type: ignore[attr-defined]
    assert_same_pixels(original, uploaded)
    assert SECRET not in original and b"script" not in original
    for data in scaled(uploaded):
        assert colours(data) == [RED] * 4


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        *(("JPEG", mode, {"quality": 95}) for mode in ("L", "RGB", "CMYK")),
        *(("JPEG", "RGB", {"progressive": True}), ("WEBP", "RGBA", {"lossless": True}), ("WEBP", "RGB", {})),
        ("GIF", "P", {}),
    ],
)
def test_the_original_keeps_its_pixels_in_every_mode(kind: str, mode: str, options: dict[str, Any]) -> None:
    uploaded = encoded(corners(mode="L" if mode == "I;16" else mode).convert(mode), kind, **options)
    original = avatars(uploaded + TRAILER).original
    assert_same_pixels(original, uploaded)
    assert SECRET not in original


def test_data_in_and_between_the_chunks_of_a_png_is_removed() -> None:
    plain = encoded(corners(), "PNG")
    head, rest = plain[:33], plain[33:-12]
    hidden = b"".join(chunk(name, SECRET) for name in (b"tIME", b"prIv", b"iTXt", b"dSIG"))
    uploaded = head + hidden + chunk(b"gAMA", SECRET * 40) + rest + hidden + chunk(b"IEND", SECRET) + TRAILER
    original = avatars(uploaded).original
    assert_same_pixels(original, plain)
    assert SECRET not in original and original.endswith(chunk(b"IEND", b""))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_original_keeps_the_colours_of_its_profile_without_its_texts(kind: str) -> None:
    uploaded = encoded(Image.new("RGB", (20, 20), (255, 0, 0)), kind, icc_profile=swapped_profile())
    made = avatars(uploaded)
    assert_same_pixels(made.original, uploaded)
    kept = opened(made.original).info["icc_profile"]
    assert kept == plain_profile(swapped_profile()) and b"sRGB" not in kept
    assert colours(made.large) == [BLUE] * 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_avatar_whose_profile_has_more_than_numbers_is_refused(kind: str) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with pytest.raises(BadImage) as refused:
        avatars(encoded(corners(), kind, icc_profile=lab))
    assert "save the picture in sRGB" in refused.value.detail


@pytest.mark.parametrize("kind", FORMATS)
def test_no_attachment_keeps_metadata_or_a_trailer(kind: str) -> None:
    picture = clean(loaded(kind))
    assert picture is not None
    assert (picture.content_type, picture.width, picture.height) == (f"image/{kind.lower()}", 60, 40)
    assert opened(picture.data).format == kind
    assert colours(picture.data) == UPRIGHT
    assert_bare(picture.data)
    assert_bare(picture.preview)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(kind: str, orientation: int) -> None:
    data = loaded(kind, orientation)
    assert colours(data) == UPRIGHT, "the pixels themselves lie, or nothing is to be turned"
    picture = clean(data)
    assert picture is not None
    for made in (*scaled(data), picture.data, picture.preview):
        assert colours(made) == SHOWN[orientation]
    size = (60, 40) if orientation < 5 else (40, 60)
    assert opened(picture.data).size == (picture.width, picture.height) == size
    original = ImageOps.exif_transpose(opened(avatars(data).original))
    assert (original.size, colours(encoded(original, "PNG"))) == (size, SHOWN[orientation]), "as viewers show it"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png_is_accepted(mode: str) -> None:
    for data in pictures(encoded(corners(mode="L" if mode == "I;16" else mode).convert(mode), "PNG")).values():
        opened(data)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
def test_every_mode_of_jpeg_is_accepted(mode: str) -> None:
    for data in scaled(encoded(corners(mode=mode), "JPEG", quality=95)):
        assert opened(data).mode == "RGB"
        if mode != "L":
            assert colours(data) == UPRIGHT


def test_sixteen_bits_keep_their_shades() -> None:
    grey = Image.new("I;16", (8, 8), 0x8000)
    assert abs(opened(avatars(encoded(grey, "PNG")).large).getpixel((4, 4))[0] - 128) <= 2  # type: ignore[index]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_transparency_is_kept(kind: str) -> None:
    image = corners(mode="RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 30, 20))
    made = avatars(encoded(image, kind))
    assert made.suffix == "png"
    for data in made[2:]:
        assert opened(data).convert("RGBA").getpixel((2, 2))[3] == 0  # type: ignore[index]
    picture = clean(encoded(image, kind))
    assert picture is not None
    assert opened(picture.data).convert("RGBA").getpixel((2, 2))[3] == 0  # type: ignore[index]
    assert colours(picture.preview)[0] == WHITE


def test_an_opaque_alpha_channel_is_not_transparency() -> None:
    assert avatars(encoded(corners(mode="RGBA"), "PNG")).suffix == "jpg"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_the_colours_of_a_profile_become_srgb(mode: str) -> None:
    image = Image.new(mode if mode != "P" else "RGB", (20, 20), (255, 0, 0)).convert(mode)
    made = avatars(encoded(image, "PNG", icc_profile=swapped_profile()))
    assert colours(made.large) == [BLUE] * 4


@pytest.mark.parametrize("rubbish", [b"rubbish", b"\0" * 500])
def test_a_bad_profile_is_dropped(rubbish: bytes) -> None:
    made = avatars(encoded(corners(), "PNG", icc_profile=rubbish))
    assert colours(made.original) == UPRIGHT
    assert_bare(made.original)


def test_broken_exif_is_dropped() -> None:
    data = encoded(corners(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + SECRET, quality=95)
    assert_bare(avatars(data).original)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_keeps_its_frames_and_timing(kind: str) -> None:
    before = animation(kind)
    picture = clean(before)
    assert picture is not None
    after = opened(picture.data)
    assert (after.n_frames, after.info["loop"], after.size) == (3, 0, (64, 48))  # type: ignore[attr-defined]
    for frame, colour in enumerate([RED, GREEN, BLUE]):
        after.seek(frame)
        after.load()
        assert after.info["duration"] == 100 * (frame + 1)
        assert colours(encoded(after.convert("RGB"), "PNG")) == [colour] * 4
    assert_bare(picture.data)
    assert colours(picture.preview) == [RED] * 4


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_data_between_the_frames_is_removed(kind: str) -> None:
    data = animation(kind)
    if kind == "GIF":
        hidden = b"!\xff\x0bSOMEPROGRAM" + bytes([len(SECRET)]) + SECRET + b"\0!\x01\x0c" + b"\0" * 12 + b"\x04text\0"
        at = data.rindex(b"!\xf9")
        data = data[:at] + hidden + data[at:]
    else:
        size = struct.unpack("<I", data[4:8])[0]
        hidden = b"JUNK" + struct.pack("<I", len(SECRET)) + SECRET
        data = b"RIFF" + struct.pack("<I", size + len(hidden)) + data[8 : 8 + size] + hidden + data[8 + size :]
    picture = clean(data)
    assert picture is not None
    assert_bare(picture.data)
    assert opened(picture.data).n_frames == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_avatar_of_an_animation_is_its_first_frame(kind: str) -> None:
    made = avatars(animation(kind))
    assert made.suffix == "jpg"
    for data in made[2:]:
        assert opened(data).size[0] and colours(data) == [RED] * 4


def test_a_jpeg_of_several_pictures_keeps_the_first() -> None:
    data = encoded(corners(), "MPO", save_all=True, append_images=[corners((30, 20))], exif=exif(6))
    assert opened(data).format == "MPO"
    picture = clean(data)
    assert picture is not None
    assert (picture.content_type, opened(picture.data).format, picture.width) == ("image/jpeg", "JPEG", 40)
    assert picture.data.count(b"\xff\xd8\xff") == 1


def test_the_preview_fits_and_is_not_enlarged() -> None:
    large, little = clean(encoded(corners((1600, 900)), "JPEG")), clean(encoded(corners((30, 20)), "PNG"))
    assert large is not None
    assert little is not None
    assert opened(large.preview).size == (400, 225)
    assert opened(little.preview).size == (30, 20)


@pytest.mark.parametrize("size", [(13_000, 13_000), (6400, 6400), (16_001, 1), (1, 16_001), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_before_any_is_decoded(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda _self: pytest.fail("decoded"))
    for use in (avatars, clean):
        with pytest.raises(BadImage):
            use(png_header(*size) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))


def test_a_bomb_within_the_limits_is_accepted() -> None:
    assert opened(avatars(bomb(2000, 2000)).small).size == (50, 50)


def test_a_compressed_comment_that_explodes_is_refused() -> None:
    text = b"Comment\0\0" + zlib.compress(b"\0" * 100_000_000)
    data = png_header(8, 8) + chunk(b"zTXt", text) + chunk(b"IDAT", zlib.compress(b"\0" * 8 * 25)) + chunk(b"IEND", b"")
    with pytest.raises(BadImage):
        avatars(data)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_picture_is_refused(kind: str, part: float) -> None:
    data = encoded(Image.effect_noise((200, 200), 90).convert("RGB"), kind)
    for use in (avatars, clean):
        with pytest.raises(BadImage):
            use(data[: int(part * len(data))])


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\xff\xd8\xff", b"RIFF\x04\0\0\0WEBP", b"\x89PNG\r\n\x1a\n", b"hello"]
)
def test_garbage_is_refused_as_avatar(data: bytes) -> None:
    with pytest.raises(BadImage):
        avatars(data)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "ICO", "PPM", "AVIF", "JPEG2000", "TGA", "PCX"])
def test_other_formats_are_refused_as_avatars(kind: str) -> None:
    with pytest.raises(BadImage):
        avatars(encoded(corners(), kind))


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "ICO", "AVIF", "JPEG2000"])
def test_pictures_that_cannot_be_cleaned_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        clean(encoded(corners(), kind))


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf",
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- made by -->\n<SVG>",
        b"\0\0\0\x0cJXL \r\n\x87\n",
        b"8BPS\0\1",
    ],
)
def test_unsupported_pictures_are_recognized_by_their_first_bytes(head: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        clean(head + b"\0" * 100)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"BMW prices, 2026\nmodel,price\n",
        b"%PDF-1.7",
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
        b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\x1aE\xdf\xa3",
        b"ID3\4",
        b"PK\3\4",
        b"<!doctype html><svg></svg>",
        b"II. Chapter",
        b"\0\0\0\x20ftyp",
    ],
)
def test_other_files_are_not_taken_for_pictures(head: bytes) -> None:
    assert clean(head) is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_broken_pictures_raise_only_our_errors(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([*FORMATS, "animated GIF", "animated WEBP"]))
    whole = bytearray(animation(kind.split()[1]) if " " in kind else loaded(kind))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for use in (images.avatars, images.clean):
        with suppress(BadImage, UnsupportedMediaType):
            use(cut)
