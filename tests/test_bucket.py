"""A node with its files in a bucket, also while the bucket is down."""

import base64
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import text

from chat_app.database import Database
from chat_app.settings import Settings
from tests.api.test_attachments import VIDEO, attempt, open_chat, send, upload
from tests.clients import Answer, Person, SocketTransport, http_answer
from tests.media.pictures import loaded
from tests.process import Process
from tests.service import MakePerson
from tests.stores import Bucket, keys_in

ROWS = text("SELECT count(*) FROM attachment WHERE owner_id = :owner_id")


@pytest.fixture
async def bucket() -> AsyncIterator[Bucket]:
    """A bucket that the test may stop."""
    made = Bucket()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def node(service_settings: Settings, bucket: Bucket) -> AsyncIterator[Process]:
    process = Process(service_settings)
    process.environment |= {"CHAT_MEDIA_URL": bucket.url, **bucket.environment}
    await process.start()
    yield process
    await process.stop()


async def set_avatar(person: Person) -> Answer:
    image = base64.b64encode(loaded("JPEG")).decode()
    return http_answer(await person.http.put("/api/v1/users/me/avatar", json={"image": image}))


@pytest.mark.timeout(120)
async def test_files_are_in_the_bucket_and_without_it_nothing_is_left_incomplete(
    node: Process, bucket: Bucket, make_person: MakePerson, at: Callable[[str, Person], Person], database: Database
) -> None:
    anna, boris = at(node.base, await make_person("Anna")), at(node.base, await make_person("Boris"))
    avatar = (await set_avatar(anna)).data
    chat_id = await open_chat(anna, boris)
    made = await upload(anna, VIDEO, "a.mp4", "video/mp4")
    message = await send(anna, chat_id, made["id"])
    assert len(keys_in(bucket.open())) == len(avatar) + 1
    assert all(urlsplit(url).netloc == urlsplit(node.base).netloc for url in (avatar["small"], made["url"]))
    async with httpx.AsyncClient(timeout=30) as browser:
        assert (await browser.get(avatar["small"])).headers["content-type"] == "image/jpeg"
        part = await browser.get(made["url"], headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, VIDEO[100:200])

        await bucket.stop()
        for refused in (await attempt(boris, VIDEO), await set_avatar(boris)):
            assert (refused.status, refused.code) == (503, "unavailable")
        for url in (avatar["small"], made["url"]):
            assert http_answer(await browser.get(url)).code == "unavailable"
    async with database.engine.connect() as connection:
        assert await connection.scalar(ROWS, {"owner_id": boris.id}) == 0
    assert (await boris.http.get("/api/v1/users/me")).json()["avatar"] is None
    # Operations without files still work, and a message is deleted although its file can't be.
    await SocketTransport().send(boris, chat_id)
    assert (await anna.http.delete(f"/api/v1/chats/{chat_id}/messages/{message['seq']}")).status_code == 204
    await node.wait_for(event="files not removed")

    await bucket.start()
    assert (await attempt(boris, VIDEO)).status == 201
    assert (await set_avatar(boris)).status == 200
    assert len(keys_in(bucket.open())) == 5
