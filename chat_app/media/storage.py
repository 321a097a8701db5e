"""The store of files: a local folder, a bucket or memory behind one API. Knows keys and bytes, not what they mean."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from typing import BinaryIO, NamedTuple

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from chat_app import metrics
from chat_app.errors import ChatError, NotFound, Unavailable
from chat_app.logs import log

# Plain names only: a key can't leave the folder, and means the same in every store.
KEY = re.compile(r"[a-z0-9]+(?:[/._-][a-z0-9]+)*")
CHUNK = 256 * 1024
PAGE = 5000
ONE_TRY = timedelta(seconds=5)


class Stored(NamedTuple):
    """A file: the size of the whole, and the bytes that were asked for."""

    size: int
    chunks: AsyncIterator[bytes]


class Storage:
    """Raises Unavailable when the store can't be reached or is full."""

    def __init__(self, url: str) -> None:
        self._store = _open(url)

    async def put(self, key: str, data: bytes | BinaryIO) -> None:
        """Write a file; it is there whole or not at all."""
        with _translated(key, missing=Unavailable):
            await obstore.put_async(self._store, key, data, use_multipart=False)

    async def get(self, key: str, part: tuple[int, int] | None = None) -> Stored:
        """Read a file, or its bytes from the first number up to, but not with, the second. Raises NotFound."""
        with _translated(key):
            options: obstore.GetOptions = {"range": part} if part else {}
            found = await obstore.get_async(self._store, key, options=options)
            return Stored(found.meta["size"], aiter(found.stream(min_chunk_size=CHUNK)))

    async def size(self, key: str) -> int | None:
        """How many bytes a file has; None if there is no such file."""
        with suppress(NotFound), _translated(key):
            return (await obstore.head_async(self._store, key))["size"]
        return None

    async def list(self, folder: str) -> AsyncIterator[dict[str, datetime]]:
        """The files below a folder, some at a time, each with the time when it was written."""
        with _translated(folder):
            async for page in obstore.list(self._store, folder, chunk_size=PAGE):
                yield {found["path"]: found["last_modified"] for found in page}

    async def delete(self, keys: Iterable[str]) -> None:
        """Remove files; that one is missing already is fine."""
        for key in keys:
            with suppress(NotFound), _translated(key):
                await obstore.delete_async(self._store, key)

    async def check(self) -> None:
        """Write something small: a full disk and a lost right to write are found only so."""
        await self.put("check", b"")

    async def close(self) -> None:
        """Let the store's threads come to rest: one that still holds a Python object at the end aborts the process."""
        await asyncio.sleep(0.1)

    @asynccontextmanager
    async def stored(self, files: Mapping[str, bytes | BinaryIO]) -> AsyncIterator[None]:
        """All of these files or none, and they stay only if what is done inside succeeds."""
        try:
            for key, data in files.items():
                await self.put(key, data)
        except BaseException:
            await self._drop(files)
            raise
        try:
            yield
        except Unavailable:
            raise  # the connection was lost, perhaps during the commit: better a file too many than a row without it
        except Exception:
            await self._drop(files)
            raise

    async def _drop(self, keys: Iterable[str]) -> None:
        with suppress(Unavailable):
            await self.delete(keys)


def _open(url: str) -> ObjectStore:
    if url.startswith("file:"):
        return LocalStore.from_url(url, mkdir=True, automatic_cleanup=True)
    if url.startswith("memory:"):
        return from_url(url)
    return from_url(
        url,
        # Buckets of one's own, such as MinIO's, are often reached over plain HTTP; the address says which.
        client_options={"allow_http": True, "connect_timeout": "3s", "read_timeout": "10s", "timeout": "10m"},
        retry_config={"max_retries": 2, "retry_timeout": ONE_TRY},
    )


@contextmanager
def _translated(key: str, missing: type[ChatError] = NotFound) -> Iterator[None]:
    try:
        if not KEY.fullmatch(key):
            raise NotFound
        yield
    except (BaseError, OSError) as error:
        if isinstance(error, FileNotFoundError) and missing is NotFound:
            raise NotFound from error
        metrics.storage_failures.inc()
        log.error("storage failed", reason=str(error).partition("\n")[0][:300])
        raise Unavailable from error
