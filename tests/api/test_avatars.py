"""Avatars over HTTP: four pictures without metadata at public URLs, and never more than one set of files for a user."""

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable
from io import BytesIO
from uuid import UUID

import httpx
import pytest
from PIL import Image

from chat_app.crud import avatars
from chat_app.errors import Internal, Unavailable
from tests.api.test_attachments import no_connection_held
from tests.clients import Person, http_answer
from tests.media.pictures import RED, SECRET, animation, bomb, colours, corners, encoded, loaded
from tests.service import MakePerson, Service
from tests.stores import Files

AVATAR = "/api/v1/users/me/avatar"
SIZES = {"original": (60, 40), "large": (400, 400), "medium": (100, 100), "small": (50, 50)}


async def settled(service: Service) -> None:
    await service.database._removals.finish()


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def upload(person: Person, data: bytes) -> dict[str, str]:
    answer = http_answer(await person.http.put(AVATAR, json={"image": as_text(data)}))
    assert answer.status == 200, answer
    made: dict[str, str] = answer.data
    return made


def key_of(avatar: dict[str, str]) -> str:
    return avatar["small"].split("/")[-2]


async def test_an_unauthenticated_request_is_refused(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.base) as outsider:
        refused = await outsider.put(AVATAR, json={"image": as_text(loaded("PNG"))})
        assert http_answer(refused).code == "not_authenticated"
        assert http_answer(await outsider.delete(AVATAR)).code == "not_authenticated"


async def test_an_avatar_is_four_public_pictures_without_metadata(anna: Person, files: Files) -> None:
    made = await upload(anna, loaded("JPEG", orientation=1))
    assert set(made) == set(SIZES)
    async with httpx.AsyncClient() as outsider:
        for name, size in SIZES.items():
            response = await outsider.get(made[name])
            assert response.headers["content-type"] == "image/jpeg"
            assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert response.headers["x-content-type-options"] == "nosniff"
            assert int(response.headers["content-length"]) == len(response.content)
            assert Image.open(BytesIO(response.content)).size == size
            assert SECRET not in response.content
            again = await outsider.get(made[name], headers={"If-None-Match": response.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            head = await outsider.head(made[name])
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == response.headers["content-length"]
    me = (await anna.http.get("/api/v1/users/me")).json()
    assert me["avatar"] == made


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text,
        lambda text: f"data:image/png;base64,{text}",
        lambda text: f"DATA:image/svg+xml;charset=utf-8;BASE64,{text}",
        lambda text: "\r\n".join(re.findall(".{1,76}", text)) + "\n",
    ],
)
async def test_base64_is_accepted_in_several_forms(anna: Person, wrap: Callable[[str], str]) -> None:
    response = await anna.http.put(AVATAR, json={"image": wrap(as_text(loaded("PNG")))})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "image",
    [
        "",
        "data:image/png;base64,",
        "not base64!",
        "aGVsbG8=",
        "aGVsbG8",
        "ñ",
        "data:image/png,%89PNG",
        as_text(b"\xff\xd8\xff" + b"\0" * 1000),
        as_text(loaded("JPEG")[:400]),
        as_text(encoded(corners(), "BMP")),
        as_text(bomb(6320, 6320)),
    ],
)
async def test_data_that_is_no_picture_is_refused(anna: Person, image: str, files: Files) -> None:
    assert http_answer(await anna.http.put(AVATAR, json={"image": image})).code == "bad_image"
    assert files() == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"image": 5}', b'{"image": "aGk=", "size": 5}', b'{"image": "\xff"}']
)
async def test_malformed_input_is_invalid(anna: Person, body: bytes) -> None:
    response = await anna.http.put(AVATAR, content=body, headers={"Content-Type": "application/json"})
    assert http_answer(response).code == "invalid_input"


async def test_pictures_of_more_than_ten_megabytes_are_too_large(anna: Person) -> None:
    for size in (10 * 2**20 + 1, 13 * 2**20):
        response = await anna.http.put(AVATAR, json={"image": as_text(b"\0" * size)})
        assert http_answer(response).code == "too_large"
    response = await anna.http.put(AVATAR, json={"image": as_text(b"\0" * 10 * 2**20)})
    assert http_answer(response).code == "bad_image"


async def test_a_new_picture_has_new_urls_and_the_old_files_are_deleted(
    anna: Person, service: Service, files: Files
) -> None:
    old = await upload(anna, loaded("JPEG"))
    new = await upload(anna, loaded("PNG"))
    await settled(service)
    assert not set(old.values()) & set(new.values())
    assert files() == sorted(f"avatars/{key_of(new)}/{size}" for size in SIZES)
    assert (await anna.http.get(old["small"])).status_code == 404
    assert (await anna.http.get(new["small"])).status_code == 200


async def test_the_same_picture_again_changes_nothing(anna: Person, service: Service, files: Files) -> None:
    first = await upload(anna, loaded("JPEG"))
    before = files()
    assert await upload(anna, loaded("JPEG")) == first
    await settled(service)
    assert files() == before
    assert (await anna.http.get(first["large"])).status_code == 200


async def test_the_urls_do_not_show_that_two_users_have_the_same_picture(anna: Person, make_person: MakePerson) -> None:
    boris = await make_person("Boris")
    ours, theirs = key_of(await upload(anna, loaded("JPEG"))), key_of(await upload(boris, loaded("JPEG")))
    assert ours[:20] != theirs[:20]


async def test_removing_the_picture_removes_the_files(anna: Person, service: Service, files: Files) -> None:
    made = await upload(anna, loaded("JPEG"))
    for _ in range(2):
        assert (await anna.http.delete(AVATAR)).status_code == 204
    await settled(service)
    assert files() == []
    assert (await anna.http.get("/api/v1/users/me")).json()["avatar"] is None
    assert http_answer(await anna.http.get(made["small"])).code == "not_found"


async def test_simultaneous_uploads_leave_one_set_of_files(anna: Person, service: Service, files: Files) -> None:
    pictures = [encoded(corners((20 + number, 20)), "PNG") for number in range(4)] * 2
    made = await asyncio.gather(*(upload(anna, picture) for picture in pictures))
    await settled(service)
    shown = (await anna.http.get("/api/v1/users/me")).json()["avatar"]
    assert shown in made
    assert files() == sorted(f"avatars/{key_of(shown)}/{size}" for size in SIZES)


async def test_simultaneous_uploads_and_removals_leave_only_the_files_of_the_shown_picture(
    anna: Person, service: Service, files: Files
) -> None:
    for round_ in range(3):
        uploads = (upload(anna, encoded(corners((30 + number, 10 + round_)), "PNG")) for number in range(3))
        removals = (anna.http.delete(AVATAR) for _ in range(3))
        await asyncio.gather(*(action for pair in zip(uploads, removals, strict=True) for action in pair))
        await settled(service)
        shown = (await anna.http.get("/api/v1/users/me")).json()["avatar"]
        assert files() == (sorted(f"avatars/{key_of(shown)}/{size}" for size in SIZES) if shown else [])


async def test_a_failed_transaction_keeps_the_old_picture_and_leaves_no_new_files(
    anna: Person, service: Service, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await upload(anna, loaded("JPEG"))
    before = files()
    original = avatars.set_avatar

    async def fail(*arguments: object) -> None:
        await original(*arguments)  # type: ignore[arg-type]  # the arguments of the route
        raise Internal

    monkeypatch.setattr(avatars, "set_avatar", fail)
    assert (await anna.http.put(AVATAR, json={"image": as_text(loaded("PNG"))})).status_code == 500
    await settled(service)
    assert files() == before
    assert (await anna.http.get("/api/v1/users/me")).json()["avatar"] == made
    assert (await anna.http.get(made["original"])).status_code == 200


async def test_all_four_files_are_stored_or_none(
    anna: Person, service: Service, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = service.node.storage
    put: Callable[..., Awaitable[None]] = storage.put

    async def full(key: str, data: bytes) -> None:
        if key.endswith("/small"):
            raise Unavailable
        await put(key, data)

    monkeypatch.setattr(storage, "put", full)
    assert http_answer(await anna.http.put(AVATAR, json={"image": as_text(loaded("PNG"))})).code == "unavailable"
    assert files() == []
    assert (await anna.http.get("/api/v1/users/me")).json()["avatar"] is None


async def test_a_transparent_picture_becomes_a_png(anna: Person) -> None:
    image = corners(mode="RGBA")
    image.paste((0, 0, 0, 0), (30, 20, 60, 40))
    made = await upload(anna, encoded(image, "WEBP", lossless=True))
    response = await anna.http.get(made["large"])
    assert response.headers["content-type"] == "image/png"
    assert colours(response.content)[0] == RED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
async def test_the_original_is_served_in_its_own_format(anna: Person, kind: str) -> None:
    made = await upload(anna, loaded(kind) if kind != "GIF" else animation(kind))
    for size in SIZES:
        response = await anna.http.get(made[size])
        expected = kind if size == "original" else "JPEG"
        assert response.headers["content-type"] == f"image/{expected.lower()}"
        assert Image.open(BytesIO(response.content)).format == expected
        assert (await anna.http.head(made[size])).headers["content-type"] == response.headers["content-type"]


@pytest.mark.parametrize(
    "path",
    [
        f"{'a' * 40}.jpg/small",
        f"{'a' * 40}.jpg/huge",
        f"{'a' * 40}.html/small",
        f"{'A' * 40}.jpg/small",
        "..%2f..%2fsecret/small",
        "%00/small",
        f"{'a' * 40}.jpg%0a/small",
    ],
)
async def test_a_made_up_url_is_not_found(anna: Person, path: str) -> None:
    assert http_answer(await anna.http.get(f"/media/avatars/{path}")).code == "not_found"


async def test_processing_a_picture_holds_no_connection_to_the_database(
    anna: Person, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def watch(function: Callable[..., object], *arguments: object, owner: object) -> object:
        await no_connection_held(service.database)
        assert owner == UUID(anna.id)
        return function(*arguments)

    monkeypatch.setattr(avatars, "in_worker", watch)
    await upload(anna, loaded("JPEG"))


async def test_the_operations_are_documented(openapi: dict[str, dict[str, dict[str, dict[str, object]]]]) -> None:
    described = openapi["paths"][AVATAR]
    assert described["put"]["operationId"] == "set_avatar"
    assert described["delete"]["operationId"] == "delete_avatar"
    assert "AvatarUpload" in json.dumps(described["put"]["requestBody"])
    assert described["put"]["security"] == openapi["paths"]["/api/v1/users/me"]["get"]["security"]
    assert not any(path.startswith("/media") for path in openapi["paths"])
