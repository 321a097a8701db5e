"""Good pictures of any size pass within the processor time of one job; pictures that only cost time are refused."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from chat_app.errors import BadImage
from chat_app.media import images
from chat_app.media.jpeg import clean_jpeg, plain_profile
from chat_app.media.worker import in_worker
from tests.media.pictures import (
    BLUE,
    ORIENTATION,
    SECRET,
    bomb,
    colours,
    corners,
    encoded,
    exif,
    loaded,
    many_scans,
    photo,
    profile,
    screenshot,
    swapped_profile,
)
from tests.media.test_images import SHOWN, UPRIGHT, opened

PHOTO = (8160, 6144)
LARGE = (4200, 3000)

avatars, clean = partial(images.avatars, is_large=True), partial(images.clean, is_large=True)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: encoded(Image.new("RGB", (4000, 3000), BLUE), "PNG"), (4000, 3000)),
        (lambda: encoded(Image.new("RGBA", (4000, 3000), (9, 9, 9, 90)), "PNG"), (4000, 3000)),
        (lambda: encoded(screenshot((3840, 2160)), "PNG"), (3840, 2160)),
        (lambda: encoded(screenshot((5120, 2880)).convert("RGBA"), "PNG"), (5120, 2880)),
        (lambda: encoded(photo((4000, 3000)), "WEBP", quality=75, method=0), (4000, 3000)),
        (lambda: encoded(photo(PHOTO), "JPEG", quality=75, exif=exif(6), icc_profile=profile()), PHOTO[::-1]),
        (lambda: encoded(photo(PHOTO), "JPEG", quality=60, progressive=True), PHOTO),
    ],
    ids=["one colour", "one transparent colour", "4K", "5K", "12 MP WebP", "50 MP", "50 MP progressive"],
)
async def test_good_pictures_are_accepted(make: Callable[[], bytes], size: tuple[int, int]) -> None:
    data = make()
    picture = await in_worker(images.clean, data)
    assert picture is not None
    assert (picture.width, picture.height) == size
    made = await in_worker(images.avatars, data)
    assert opened(made.large).size == (400, 400)


async def test_a_picture_that_only_costs_processor_time_is_refused() -> None:
    data = many_scans(4000, 3000, 20_000)
    assert len(data) < 700_000
    for use in (images.clean, images.avatars):
        with pytest.raises(BadImage) as refused:
            await in_worker(use, data)
        assert "time" in refused.value.detail


@pytest.mark.parametrize("use", [avatars, clean])
def test_a_picture_above_twelve_megapixels_needs_bytes_for_its_pixels(use: Callable[[bytes], Any]) -> None:
    data = bomb(6320, 6320)
    assert len(data) < 160_000
    with pytest.raises(BadImage) as refused:
        use(data)
    assert "200 for each byte" in refused.value.detail
    assert use(bomb(4000, 3000))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_becomes_upright_and_keeps_its_pixels(orientation: int) -> None:
    data = loaded("JPEG", orientation, corners(LARGE))
    picture, avatar = clean(data), avatars(data)
    assert picture is not None
    size = LARGE if orientation < 5 else LARGE[::-1]
    assert (picture.content_type, picture.width, picture.height) == ("image/jpeg", *size)
    assert avatar.original == picture.data
    shown = ImageOps.exif_transpose(opened(picture.data))
    assert shown.size == size
    assert opened(picture.data).tobytes() == opened(data).tobytes()
    for made in (encoded(shown, "PNG"), picture.preview, avatar.large):
        assert colours(made) == SHOWN[orientation]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_loses_everything_but_its_pixels(orientation: int) -> None:
    data = loaded("JPEG", orientation, corners(LARGE))
    picture = clean(data)
    assert picture is not None
    assert SECRET not in picture.data
    assert picture.data.endswith(b"\xff\xd9")
    image = opened(picture.data)
    assert dict(image.getexif()) == ({ORIENTATION: orientation} if orientation > 1 else {})
    assert (b"Exif" in picture.data) == (orientation > 1)
    assert image.info["icc_profile"] == plain_profile(profile())
    assert not {"xmp", "comment", "photoshop"} & set(image.info)


def test_a_large_jpeg_keeps_its_colours() -> None:
    swapped = swapped_profile()
    data = encoded(Image.new("RGB", LARGE, (255, 0, 0)), "JPEG", icc_profile=swapped)
    picture, avatar = clean(data), avatars(data)
    assert picture is not None
    kept = opened(picture.data).info["icc_profile"]
    assert len(kept) < len(swapped)
    assert b"sRGB" not in kept, "texts stay behind"
    for made in (picture.preview, avatar.large):
        assert colours(made) == [BLUE] * 4
    for mode in ("L", "CMYK"):
        original = encoded(corners(LARGE, mode), "JPEG", quality=95)
        picture = clean(original)
        assert picture is not None
        assert opened(picture.data).tobytes() == opened(original).tobytes()


@pytest.mark.parametrize(
    "rubbish", [b"rubbish", b"\0" * 500, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()]
)
def test_a_large_jpeg_with_another_profile_is_encoded_again(rubbish: bytes) -> None:
    picture = clean(encoded(corners(LARGE), "JPEG", icc_profile=rubbish, exif=exif(6), quality=95))
    assert picture is not None
    assert "icc_profile" not in opened(picture.data).info
    assert colours(picture.data) == SHOWN[6]


def test_a_large_jpeg_of_several_pictures_keeps_the_first() -> None:
    data = encoded(corners(LARGE), "MPO", save_all=True, append_images=[corners((30, 20))], exif=exif(6))
    picture = clean(data)
    assert picture is not None
    assert opened(picture.data).format == "JPEG"
    assert picture.data.count(b"\xff\xd8\xff") == 1


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_large_jpeg_is_refused(progressive: bool) -> None:
    data = encoded(photo(LARGE), "JPEG", quality=60, progressive=progressive)
    for use in (avatars, clean):
        with pytest.raises(BadImage):
            use(data[: len(data) // 2])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_broken_jpegs_raise_only_our_error(data: st.DataObject) -> None:
    whole = bytearray(loaded("JPEG", 6))
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(2, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(4, len(whole)))])
    with suppress(BadImage):
        made = clean_jpeg(cut, 6, None)
        assert made.startswith(b"\xff\xd8\xff")
        assert made.endswith(b"\xff\xd9")
    broken = bytearray(profile())
    for _ in range(data.draw(st.integers(0, 6))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    plain = plain_profile(bytes(broken[: data.draw(st.integers(0, len(broken)))]))
    assert plain is None or len(plain) <= len(broken)


def test_a_small_jpeg_and_its_plain_profile_give_the_same_colours() -> None:
    plain = plain_profile(profile())
    assert plain is not None
    picture = clean_jpeg(loaded("JPEG"), 1, plain)
    assert colours(picture) == UPRIGHT
    source = ImageCms.ImageCmsProfile(BytesIO(opened(picture).info["icc_profile"]))
    changed = ImageCms.profileToProfile(corners(), source, ImageCms.createProfile("sRGB"))
    assert changed is not None
    assert colours(encoded(changed, "PNG")) == UPRIGHT
