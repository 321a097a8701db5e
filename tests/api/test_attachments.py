"""Attachments over HTTP: access to a file, the life of its URL, its content type, and its content without metadata."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import uuid4

import httpx
import pytest
from PIL import Image

from chat_app.crud import attachments
from chat_app.database import Database
from chat_app.errors import Internal, Unavailable
from chat_app.media import links
from tests.clients import DEADLINE, Answer, Person, http_answer
from tests.media.pictures import RED, SECRET, animation, bomb, colours, corners, encoded, loaded, photo
from tests.service import MakePerson, Service
from tests.stores import Files

ATTACHMENTS = "/api/v1/attachments"
VIDEO = bytes(range(256)) * 40


async def attempt(
    person: Person,
    content: bytes,
    name: str = "file.bin",
    content_type: str = "application/octet-stream",
    **fields: Any,
) -> Answer:
    file = {"file": (name, content, content_type)}
    return http_answer(await person.http.post(ATTACHMENTS, files=file, data=fields))


async def upload(person: Person, *arguments: Any, **fields: Any) -> dict[str, Any]:
    answer = await attempt(person, *arguments, **fields)
    assert answer.status == 201, answer
    made: dict[str, Any] = answer.data
    return made


async def open_chat(anna: Person, boris: Person) -> str:
    made: str = (await anna.http.post("/api/v1/chats/private", json={"user_id": boris.id})).json()["id"]
    return made


async def send(person: Person, chat_id: str, attachment_id: str, kind: str = "file") -> dict[str, Any]:
    message = {"type": kind, "client_id": str(uuid4()), "attachment_id": attachment_id}
    answer = http_answer(await person.http.post(f"/api/v1/chats/{chat_id}/messages", json=message))
    assert answer.status == 201, answer
    made: dict[str, Any] = answer.data
    return made


async def sees(person: Person, attachment_id: str) -> bool:
    answer = http_answer(await person.http.get(f"{ATTACHMENTS}/{attachment_id}"))
    assert answer.status == 200 or answer.code == "attachment_not_found"
    return answer.ok


async def fetch(url: str, method: str = "GET", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient() as browser:
        return await browser.request(method, url, headers={name.replace("_", "-"): v for name, v in headers.items()})


async def test_an_unauthenticated_upload_is_refused(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.base) as outsider:
        refused = await outsider.post(ATTACHMENTS, files={"file": b"x"})
        assert http_answer(refused).code == "not_authenticated"
        assert http_answer(await outsider.get(f"{ATTACHMENTS}/{uuid4()}")).code == "not_authenticated"


async def test_a_file_is_served_unchanged(anna: Person, files: Files) -> None:
    made = await upload(anna, VIDEO, "holiday.mp4", "video/mp4; codecs=avc1", duration="12.5")
    assert {name: made[name] for name in made if name not in ("id", "url")} == {
        "name": "holiday.mp4",
        "content_type": "video/mp4",
        "size": len(VIDEO),
        "width": None,
        "height": None,
        "duration": 12.5,
        "waveform": None,
        "preview_url": None,
    }
    response = await fetch(made["url"])
    assert response.content == VIDEO
    assert response.headers["content-type"] == "video/mp4"
    assert response.headers["content-disposition"] == "inline; filename*=UTF-8''holiday.mp4"
    assert response.headers["cache-control"] == "private, max-age=3600"
    assert response.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert response.headers["x-content-type-options"] == "nosniff"
    again = http_answer(await anna.http.get(f"{ATTACHMENTS}/{made['id']}")).data
    assert again == made, "a URL stays the same for a while, so that browsers can cache the file"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
async def test_a_picture_loses_its_metadata(anna: Person, kind: str) -> None:
    made = await upload(anna, loaded(kind), "page.html", "text/html")
    assert (made["content_type"], made["width"], made["height"]) == (f"image/{kind.lower()}", 60, 40)
    picture, preview = await fetch(made["url"]), await fetch(made["preview_url"])
    assert len(picture.content) == made["size"]
    assert picture.headers["content-type"] == f"image/{kind.lower()}"
    assert preview.headers["content-type"] == "image/jpeg"
    for response in (picture, preview):
        assert SECRET not in response.content
        assert colours(response.content)[0] == RED


async def test_an_animation_keeps_its_frames(anna: Person) -> None:
    made = await upload(anna, animation("GIF"), "cat.gif", "image/gif")
    image = Image.open(BytesIO((await fetch(made["url"])).content))
    assert image.n_frames == 3  # type: ignore[attr-defined]  # of a GIF


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>"


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (encoded(corners(), "TIFF"), "application/octet-stream"),
        (HEIC, "image/heic"),
        (HEIC, "video/mp4"),
        (SVG, "image/svg+xml"),
        (SVG, "text/plain"),
        (b"something", "image/x-unknown"),
        (b"something", "image/png"),
    ],
)
async def test_a_picture_that_cannot_be_cleaned_is_a_file_and_a_download_only(
    anna: Person, boris: Person, content: bytes, content_type: str
) -> None:
    chat_id = await open_chat(anna, boris)
    made = await upload(anna, content, "photo.heic", content_type)
    assert (made["name"], made["content_type"]) == ("photo.heic", "application/octet-stream")
    for kind in ("image", "video", "audio", "voice"):
        message = {"type": kind, "client_id": str(uuid4()), "attachment_id": made["id"]}
        refused = await anna.http.post(f"/api/v1/chats/{chat_id}/messages", json=message)
        assert [error["code"] for error in refused.json()["errors"]] == ["wrong_content_type"]
    sent = await send(anna, chat_id, made["id"])
    response = await fetch(sent["attachment"]["url"])
    assert response.content == content
    assert response.headers["content-disposition"] == "attachment; filename*=UTF-8''photo.heic"
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_broken_picture_is_refused(anna: Person, files: Files) -> None:
    assert (await attempt(anna, loaded("JPEG")[:400], "a.bin", "video/mp4")).code == "bad_image"
    assert files() == []


async def hinted(person: Person, content: bytes, kind: str, preview: bytes | None = None, **fields: str) -> Answer:
    """Upload a file with hints."""
    sent = {"file": ("a", content, kind)} | ({"preview": ("p.jpg", preview, "image/jpeg")} if preview else {})
    return http_answer(await person.http.post(ATTACHMENTS, files=sent, data=fields))


async def test_hints_of_a_video_are_shown_and_its_preview_is_cleaned(
    anna: Person, boris: Person, service: Service, files: Files
) -> None:
    chat_id = await open_chat(anna, boris)
    hints = {"duration": "3", "width": "1920", "height": "1080", "waveform": "[0, 7, 255]"}
    made = (await hinted(anna, VIDEO, "video/mp4", loaded("JPEG", 6, corners((800, 600))), **hints)).data
    assert (made["width"], made["height"], made["waveform"]) == (1920, 1080, [0, 7, 255])
    preview = await fetch(made["preview_url"])
    assert preview.headers["content-type"] == "image/jpeg"
    assert SECRET not in preview.content and max(Image.open(BytesIO(preview.content)).size) <= 400
    sent = await send(anna, chat_id, made["id"], "video")
    (seen,) = (await boris.http.get(f"/api/v1/chats/{chat_id}/messages")).json()["items"]
    assert seen["attachment"] == sent["attachment"] == made
    reply = {"type": "text", "text": "!", "client_id": str(uuid4()), "reply_to": 1}
    await boris.http.post(f"/api/v1/chats/{chat_id}/messages", json=reply)
    page = (await anna.http.get(f"/api/v1/chats/{chat_id}/messages?limit=1")).json()
    assert page["replied"][0]["attachment"]["waveform"] == [0, 7, 255]
    assert len(files()) == 2
    await anna.http.delete(f"/api/v1/chats/{chat_id}/messages/1")
    await service.database._removals.finish()
    assert files() == []


async def test_hints_do_not_replace_what_is_known_of_a_picture(anna: Person, files: Files) -> None:
    made = (await hinted(anna, loaded("PNG"), "image/png", loaded("JPEG"), width="9", height="9")).data
    assert (made["width"], made["height"]) == (60, 40)
    assert len(files()) == 2


async def test_a_preview_is_a_jpeg_of_at_most_200_kilobytes(anna: Person, files: Files) -> None:
    for preview, code in (
        (loaded("PNG"), "unsupported_media_type"),
        (HEIC, "unsupported_media_type"),
        (b"something", "unsupported_media_type"),
        (loaded("JPEG")[:400], "bad_image"),
        (b"\xff\xd8\xff" + b"x" * 200_000, "too_large"),
    ):
        assert (await hinted(anna, VIDEO, "video/mp4", preview)).code == code
    assert files() == []


async def test_a_picture_that_unpacks_to_a_thousand_times_its_size_is_refused(anna: Person, files: Files) -> None:
    refused = await attempt(anna, bomb(6320, 6320), "a.png", "image/png")
    assert (refused.status, refused.code) == (422, "bad_image")
    assert files() == []


async def test_a_photo_of_fifty_megapixels_is_cleaned(anna: Person) -> None:
    data = loaded("JPEG", 6, photo((8160, 6144)))
    made = await upload(anna, data, "photo.jpg", "image/jpeg")
    assert (made["content_type"], made["width"], made["height"]) == ("image/jpeg", 6144, 8160)
    for url in (made["url"], made["preview_url"]):
        assert SECRET not in (await fetch(url)).content


async def test_a_file_has_at_most_25_megabytes(anna: Person, files: Files) -> None:
    assert (await attempt(anna, b"\1" * (25 * 2**20 + 1))).code == "too_large"
    assert files() == []
    assert (await upload(anna, b"\1" * 25 * 2**20))["size"] == 25 * 2**20


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\anna\\plan.docx", "plan.docx"),
        ("Отчёт за год.pdf", "Отчёт за год.pdf"),
        ("a\u2028b.txt", "a b.txt"),
        ("evil\u202egpj.exe", "evilgpj.exe"),
        ("..", "file"),
        ("folder/", "file"),
        ("x" * 300 + ".jpeg", "x" * 235 + "x" * 15 + ".jpeg"),
    ],
)
async def test_file_names_are_made_harmless(anna: Person, sent: str, kept: str) -> None:
    made = await upload(anna, b"content", sent)
    assert made["name"] == kept
    disposition = (await fetch(made["url"])).headers["content-disposition"]
    assert re.fullmatch(r"attachment; filename\*=UTF-8''[A-Za-z0-9._~%-]+", disposition)


@pytest.mark.parametrize(
    ("content_type", "kept", "is_shown"),
    [
        ("text/html", "text/html", False),
        ("application/xhtml+xml", "application/xhtml+xml", False),
        ("audio/evil+xml", "audio/evil+xml", False),
        ("text/javascript", "text/javascript", False),
        ("AUDIO/ogg; codecs=opus", "audio/ogg", True),
        ("application/pdf", "application/pdf", True),
        ("nonsense", "application/octet-stream", False),
        ("text/html\\r\\nx", "application/octet-stream", False),
        ("a/b/c", "application/octet-stream", False),
    ],
)
async def test_only_content_that_cannot_run_is_shown_inline(
    anna: Person, content_type: str, kept: str, is_shown: bool
) -> None:
    made = await upload(anna, b"<script>alert(1)</script>", "a.bin", content_type)
    assert made["content_type"] == kept
    response = await fetch(made["url"])
    assert response.headers["content-type"] == kept
    assert response.headers["content-disposition"].startswith("inline" if is_shown else "attachment")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert ("sandbox" in response.headers.get("content-security-policy", "")) == (kept != "application/pdf")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        *[({"duration": value}, "/duration") for value in ("-1", "nan", "x")],
        *[({"width": value}, "/width") for value in ("0", "-1", "1.5", "x", "100001", "9" * 5000)],
        ({"height": "0"}, "/height"),
        *[({"waveform": value}, "/waveform") for value in ("x", "{}", "1", "[", "null", "\x00", "[" * 10_000)],
        *[({"waveform": f"[0, {value}]"}, "/waveform/1") for value in ("-1", "256", "1.5", "true", '"1"', "null")],
        ({"waveform": str([0] * 201)}, "/waveform"),
    ],
)
async def test_invalid_fields_are_refused(anna: Person, fields: dict[str, str], pointer: str) -> None:
    response = await anna.http.post(ATTACHMENTS, files={"file": b"x"}, data=fields)
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"--x\r\nrubbish"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--x--\r\n',
        ),
        ("application/x-www-form-urlencoded", b"file=x"),
    ],
)
async def test_a_body_without_a_file_is_invalid(anna: Person, kind: str, body: bytes) -> None:
    response = await anna.http.post(ATTACHMENTS, content=body, headers={"Content-Type": kind})
    assert http_answer(response).code == "invalid_input"


async def test_only_the_owner_sees_an_attachment_that_was_not_sent(anna: Person, boris: Person) -> None:
    made = await upload(anna, VIDEO)
    assert await sees(anna, made["id"])
    assert not await sees(boris, made["id"])
    assert not await sees(anna, str(uuid4()))


async def test_users_who_see_the_message_see_its_attachment(
    anna: Person, boris: Person, make_person: MakePerson
) -> None:
    clara = await make_person("Clara")
    made = await upload(anna, VIDEO)
    message = await send(anna, await open_chat(anna, boris), made["id"])
    assert message["attachment"] == made
    assert await sees(boris, made["id"])
    assert not await sees(clara, made["id"])


async def test_newcomers_do_not_see_earlier_attachments(anna: Person, boris: Person, make_person: MakePerson) -> None:
    clara, david = await make_person("Clara"), await make_person("David")
    made = await upload(anna, VIDEO)
    chat_id = await open_chat(anna, boris)
    await send(anna, chat_id, made["id"])
    for person, is_shared in ((clara, False), (david, True)):
        body = {"user_ids": [person.id], "share_history": is_shared}
        assert (await anna.http.post(f"/api/v1/chats/{chat_id}/members", json=body)).is_success
        assert await sees(person, made["id"]) == is_shared


async def test_a_member_who_left_sees_no_attachment_not_even_their_own(
    anna: Person, boris: Person, make_person: MakePerson
) -> None:
    group = {"title": "Trip", "member_ids": [boris.id, (await make_person("Clara")).id]}
    chat_id = (await anna.http.post("/api/v1/chats/groups", json=group)).json()["id"]
    made = await upload(boris, VIDEO)
    await send(boris, chat_id, made["id"])
    assert await sees(boris, made["id"])
    assert (await boris.http.post(f"/api/v1/chats/{chat_id}/leave")).status_code == 204
    assert not await sees(boris, made["id"])
    assert await sees(anna, made["id"])


async def test_deleting_the_message_deletes_the_files_and_ends_the_urls(
    anna: Person, boris: Person, service: Service, files: Files
) -> None:
    made = await upload(anna, loaded("JPEG"))
    chat_id = await open_chat(anna, boris)
    message = await send(anna, chat_id, made["id"], "image")
    assert len(files()) == 2
    deleted = await anna.http.delete(f"/api/v1/chats/{chat_id}/messages/{message['seq']}")
    assert deleted.status_code == 204
    assert not await sees(anna, made["id"])
    for url in (made["url"], made["preview_url"]):
        assert (await fetch(url)).status_code == 404
    await service.database._removals.finish()
    assert files() == []


async def test_the_urls_of_a_deleted_group_end(anna: Person, boris: Person) -> None:
    group = {"title": "Trip", "member_ids": [boris.id]}
    chat_id = (await anna.http.post("/api/v1/chats/groups", json=group)).json()["id"]
    made = await upload(anna, VIDEO)
    await send(anna, chat_id, made["id"])
    assert (await fetch(made["url"])).status_code == 200
    assert (await anna.http.delete(f"/api/v1/chats/{chat_id}")).status_code == 204
    assert (await fetch(made["url"])).status_code == 404
    assert not await sees(anna, made["id"])


async def test_a_changed_url_is_refused(anna: Person) -> None:
    made, other = await upload(anna, loaded("JPEG")), await upload(anna, loaded("PNG"))
    url = urlsplit(made["url"])
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    bare = url._replace(query="").geturl()
    changes: list[dict[str, str]] = [
        {"variant": "preview"},
        {"variant": "other"},
        {"expires": str(int(query["expires"]) + 3600)},
        {"expires": "9" * 5000},
        {"expires": "x"},
        {"signature": ""},
        {"signature": "ñ\ud800"[:1]},
        {"signature": query["signature"][:-1]},
        {"signature": query["signature"].upper()},
    ]
    for change in changes:
        response = await fetch(f"{bare}?{urlencode(query | change)}")
        assert http_answer(response).code == "not_found", change
    for address in (bare, made["url"].replace(made["id"], other["id"]), made["url"].replace(made["id"], "x%00")):
        assert http_answer(await fetch(address)).code == "not_found"
    assert (await fetch(f"{bare}?{urlencode(query)}")).status_code == 200


async def test_a_url_is_valid_for_one_to_two_hours(anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    hour = 500_000 * 3600
    clock = hour
    monkeypatch.setattr(links.time, "time", lambda: clock)
    made = await upload(anna, VIDEO)
    for clock, status in ((hour + 3599, 200), (hour + 7199, 200), (hour + 7200, 404)):  # noqa: B007  # the clock reads it
        assert (await fetch(made["url"])).status_code == status
    clock = hour + 3599
    assert http_answer(await anna.http.get(f"{ATTACHMENTS}/{made['id']}")).data["url"] == made["url"]
    clock = hour + 3600
    assert http_answer(await anna.http.get(f"{ATTACHMENTS}/{made['id']}")).data["url"] != made["url"]


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("bytes=0-", 0, 10240),
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=10000-99999", 10000, 10240),
        ("bytes=-100", 10140, 10240),
        ("bytes=-99999", 0, 10240),
    ],
)
async def test_ranges_of_a_file_are_served(anna: Person, files: Files, asked: str, first: int, end: int) -> None:
    made = await upload(anna, VIDEO, "a.mp4", "video/mp4")
    for method in ("GET", "HEAD"):
        response = await fetch(made["url"], method, Range=asked)
        assert response.status_code == 206
        assert response.headers["content-range"] == f"bytes {first}-{end - 1}/10240"
        assert response.headers["content-length"] == str(end - first)
        assert response.content == (VIDEO[first:end] if method == "GET" else b"")


@pytest.mark.parametrize("asked", ["bytes=10240-", "bytes=99999-100000", "bytes=-0"])
async def test_ranges_outside_the_file_are_refused(anna: Person, asked: str) -> None:
    made = await upload(anna, VIDEO, "a.mp4", "video/mp4")
    response = await fetch(made["url"], Range=asked)
    assert (response.status_code, response.headers["content-range"]) == (416, "bytes */10240")


@pytest.mark.parametrize(
    "asked", ["bytes=-", "bytes=5-2", "lines=1-2", "bytes=0-1,4-5", "bytes=a-b", "bytes=" + "9" * 30 + "-"]
)
async def test_a_malformed_range_gets_the_whole_file(anna: Person, asked: str) -> None:
    made = await upload(anna, VIDEO, "a.mp4", "video/mp4")
    response = await fetch(made["url"], Range=asked)
    assert (response.status_code, response.content, response.headers["accept-ranges"]) == (200, VIDEO, "bytes")


async def test_an_empty_file_has_no_ranges(anna: Person, files: Files) -> None:
    made = await upload(anna, b"")
    assert (await fetch(made["url"])).content == b""
    assert (await fetch(made["url"], Range="bytes=0-")).status_code == 416


async def test_a_cached_file_is_not_sent_again(anna: Person) -> None:
    made = await upload(anna, VIDEO, "a.mp4", "video/mp4")
    etag = (await fetch(made["url"])).headers["etag"]
    for known in (etag, f'"other", W/{etag}'):
        again = await fetch(made["url"], If_None_Match=known)
        assert (again.status_code, again.content) == (304, b"")
    assert (await fetch(made["url"], Range="bytes=0-9", If_Range=etag)).status_code == 206
    assert (await fetch(made["url"], Range="bytes=0-9", If_Range='"other"')).content == VIDEO


async def test_head_returns_the_size(anna: Person) -> None:
    made = await upload(anna, VIDEO, "a.mp4", "video/mp4")
    response = await fetch(made["url"], "HEAD")
    assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "10240")


async def test_a_failed_transaction_leaves_no_files(
    anna: Person, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = attachments.create_attachment

    async def fail(*arguments: Any) -> None:
        await original(*arguments)
        assert len(files()) == 2
        raise Internal

    monkeypatch.setattr(attachments, "create_attachment", fail)
    assert (await attempt(anna, loaded("JPEG"))).code == "internal"
    assert files() == []


async def test_a_failed_store_leaves_no_row_and_no_files(
    anna: Person, service: Service, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = service.node.storage
    put: Callable[..., Awaitable[None]] = storage.put

    async def full(key: str, data: bytes) -> None:
        if key.endswith("-preview"):
            raise Unavailable
        await put(key, data)

    monkeypatch.setattr(storage, "put", full)
    assert (await attempt(anna, loaded("JPEG"))).code == "unavailable"
    assert files() == []


async def test_storing_an_upload_holds_no_connection_to_the_database(
    anna: Person, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = service.node.storage
    put: Callable[..., Awaitable[None]] = storage.put

    async def watch(*arguments: Any) -> None:
        await no_connection_held(service.database)
        await put(*arguments)

    monkeypatch.setattr(storage, "put", watch)
    await upload(anna, VIDEO)


async def no_connection_held(database: Database) -> None:
    """Return once no connection is in use. Others may use one for a moment, but none waits for this."""
    async with asyncio.timeout(DEADLINE):
        while database.engine.pool.checkedout():  # type: ignore[attr-defined]  # noqa: ASYNC110  # a QueuePool has no event
            await asyncio.sleep(0.01)


async def test_the_operations_are_documented(openapi: dict[str, Any]) -> None:
    described = openapi["paths"][ATTACHMENTS]["post"]
    assert described["operationId"] == "create_attachment"
    assert "multipart/form-data" in described["requestBody"]["content"]
    assert described["security"]
    assert openapi["paths"][f"{ATTACHMENTS}/{{attachment_id}}"]["get"]["operationId"] == "get_attachment"
