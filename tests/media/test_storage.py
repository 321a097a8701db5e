"""The store of files in a folder, a bucket and memory: whole files or none, and nothing outside of the folder."""

import asyncio
import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from tempfile import SpooledTemporaryFile

import pytest

from chat_app.errors import NotFound, TooLarge, Unavailable
from chat_app.media.storage import Storage
from tests.clients import DEADLINE
from tests.stores import Bucket

CONTENT = bytes(range(256)) * 5000


@pytest.fixture(params=["file", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        return bucket.open()
    return Storage((tmp_path / "a folder" / "media").as_uri() if request.param == "file" else "memory:///")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "media"


async def read(storage: Storage, key: str, part: tuple[int, int] | None = None) -> bytes:
    found = await storage.get(key, part)
    return b"".join([chunk async for chunk in found.chunks])


def entries(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def spoil(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("no folder any more")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_a_file_is_read_whole_and_in_parts(storage: Storage) -> None:
    await storage.put("avatars/ab12.jpg/large", CONTENT)
    assert (await storage.get("avatars/ab12.jpg/large")).size == len(CONTENT)
    assert await read(storage, "avatars/ab12.jpg/large") == CONTENT
    assert await read(storage, "avatars/ab12.jpg/large", (10, 300_000)) == CONTENT[10:300_000]
    assert (await storage.get("avatars/ab12.jpg/large", (10, 20))).size == len(CONTENT)


@pytest.mark.parametrize(
    "make", [BytesIO, lambda content: spooled(content, 100), lambda content: spooled(content, 10**9)]
)
async def test_an_open_file_is_stored_from_its_beginning(storage: Storage, make: Callable[[bytes], BytesIO]) -> None:
    with make(CONTENT) as file:
        await storage.put("a/b", file)
    assert await read(storage, "a/b") == CONTENT


def spooled(content: bytes, size: int) -> SpooledTemporaryFile[bytes]:
    file: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(max_size=size)  # noqa: SIM115  # the caller closes it
    file.write(content)
    file.seek(0)
    return file


async def test_an_empty_file_is_stored(storage: Storage) -> None:
    await storage.put("a/b", b"")
    assert await read(storage, "a/b") == b""


async def test_a_file_is_replaced(storage: Storage) -> None:
    await storage.put("a/b", b"one")
    await storage.put("a/b", b"two")
    assert await read(storage, "a/b") == b"two"


async def test_deleting_is_final_and_can_be_repeated(storage: Storage) -> None:
    await storage.put("a/b", b"one")
    await storage.put("a/c", b"two")
    for _ in range(2):
        await storage.delete(["nothing/here", "a/b", "a/c"])
    for key in ("a/b", "a/c"):
        with pytest.raises(NotFound):
            await storage.get(key)


async def test_check_accepts_a_working_store(storage: Storage) -> None:
    await storage.check()


@pytest.mark.parametrize(
    "key",
    ["", "..", "../a", "a/../../b", "/etc/passwd", "a//b", "a/", "a/./b", "a\0b", "a%2e", "A", "a\\b", "a b", "a\n"],
)
async def test_a_key_cannot_leave_the_folder(key: str, folder: Path) -> None:
    storage = Storage(folder.as_uri())
    (folder.parent / "a").write_text("outside")
    for attempt in (storage.put(key, b"x"), storage.get(key)):
        with pytest.raises(NotFound):
            await attempt
    await storage.delete([key])
    assert files(folder.parent) == ["a"]


async def test_empty_folders_are_deleted_but_never_the_root(folder: Path) -> None:
    storage = Storage(folder.as_uri())
    await storage.put("avatars/one/large", b"x")
    await storage.delete(["avatars/one/large"])
    assert entries(folder) == []


async def test_no_partial_file_is_ever_seen(folder: Path) -> None:
    storage = Storage(folder.as_uri())
    contents = {letter.encode() * 8_000_000 for letter in "abc"}
    await storage.put("a/b", min(contents))
    seen = set()

    async def watch() -> None:
        while True:
            seen.add((folder / "a" / "b").read_bytes())
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    for content in [*contents] * 3:
        await storage.put("a/b", content)
    watching.cancel()
    assert seen <= contents
    assert len(seen) > 1, "nothing was replaced while it was watched"
    assert files(folder) == ["a/b"]


async def test_a_folder_can_be_emptied_and_filled_at_the_same_time(folder: Path) -> None:
    storage = Storage(folder.as_uri())
    for number in range(50):
        await storage.put("a/old", b"x")
        await asyncio.gather(storage.delete(["a/old"]), storage.put("a/new", str(number).encode()))
        assert await read(storage, "a/new") == str(number).encode()
        await storage.delete(["a/new"])


async def test_a_store_that_fails_is_unavailable(folder: Path) -> None:
    storage = Storage(folder.as_uri())
    spoil(folder)
    for attempt in (storage.put("a/b", b"x"), storage.get("a/b"), storage.check()):
        with pytest.raises(Unavailable):
            await attempt


async def test_a_bucket_without_a_server_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    storage = Storage("s3://bucket/prefix")
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(Unavailable):
            await storage.check()


@pytest.fixture
def full(folder: Path) -> Iterator[Path]:
    """A folder on a disk of 1 MB."""
    folder.mkdir()
    if os.system(f"mount -t tmpfs -o size=1m tmpfs '{folder}' 2>/dev/null"):
        pytest.fail("only root can make a small disk")
    yield folder
    os.system(f"umount '{folder}'")


@pytest.mark.root
async def test_a_full_disk_is_unavailable_and_keeps_no_partial_file(full: Path) -> None:
    storage = Storage(full.as_uri())
    await storage.put("a/small", b"x" * 400_000)
    with pytest.raises(Unavailable):
        async with storage.stored({"b/fits": b"x" * 400_000, "b/large": b"x" * 900_000}):
            pytest.fail("not everything was stored")
    assert files(full) == ["a/small"]
    assert await read(storage, "a/small") == b"x" * 400_000


@pytest.mark.parametrize("error", [TooLarge(), ValueError("any mistake")])
async def test_files_are_deleted_when_their_block_fails(folder: Path, error: Exception) -> None:
    storage = Storage(folder.as_uri())
    with pytest.raises(type(error)):  # noqa: PT012  # what raises is what is inside
        async with storage.stored({"a/b": b"x", "a/c": b"y"}):
            assert files(folder) == ["a/b", "a/c"]
            raise error
    assert files(folder) == []


async def test_files_stay_when_the_outcome_of_the_commit_is_unknown(folder: Path) -> None:
    storage = Storage(folder.as_uri())
    with pytest.raises(Unavailable):
        async with storage.stored({"a/b": b"x"}):
            raise Unavailable
    assert files(folder) == ["a/b"]


async def test_files_stay_when_their_block_succeeds(storage: Storage) -> None:
    async with storage.stored({"a/b": b"x"}):
        pass
    assert await read(storage, "a/b") == b"x"
