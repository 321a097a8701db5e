"""The file storage: a local folder, a bucket or memory behind one API. It knows keys and bytes, not their meaning."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, BinaryIO, NamedTuple

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from chat_app import metrics
from chat_app.errors import ChatError, NotFound, Unavailable
from chat_app.logs import log

# Plain names only: a key can't leave the folder, and works in every kind of storage.
KEY = re.compile(r"[a-z0-9]+(?:[/._-][a-z0-9]+)*")
CHUNK = 256 * 1024
PAGE = 5000
ONE_TRY = timedelta(seconds=5)


class Stored(NamedTuple):
    """The size of a whole file, and the requested bytes."""

    size: int
    chunks: AsyncIterator[bytes]


class Storage:
    """Raises Unavailable if the storage can't be reached or is full."""

    def __init__(self, url: str) -> None:
        self._store = _open(url)

    async def put(self, key: str, data: bytes | BinaryIO) -> None:
        """Write a file, completely or not at all."""
        with _translated(key, missing=Unavailable):
            await obstore.put_async(self._store, key, data, use_multipart=False)

    async def get(self, key: str, part: tuple[int, int] | None = None) -> Stored:
        """Read a file, or the half-open range `part` of its bytes. Raises NotFound."""
        with _translated(key):
            options: obstore.GetOptions = {"range": part} if part else {}
            found = await obstore.get_async(self._store, key, options=options)
            return Stored(found.meta["size"], aiter(found.stream(min_chunk_size=CHUNK)))

    async def size(self, key: str) -> int | None:
        """The size of a file in bytes. None if it does not exist."""
        with suppress(NotFound), _translated(key):
            return (await obstore.head_async(self._store, key))["size"]
        return None

    async def list(self, folder: str) -> AsyncIterator[dict[str, datetime]]:
        """The files below a folder with their times of writing, in pages."""
        with _translated(folder):
            async for page in obstore.list(self._store, folder, chunk_size=PAGE):
                yield {found["path"]: found["last_modified"] for found in page}

    async def delete(self, keys: Iterable[str]) -> None:
        """Delete files. Missing files are ignored."""
        for key in keys:
            with suppress(NotFound), _translated(key):
                await obstore.delete_async(self._store, key)

    async def check(self) -> None:
        """Write a small file: only this detects a full disk or a missing permission."""
        await self.put("check", b"")

    async def close(self) -> None:
        """Wait for the threads of the storage: one that still holds a Python object at exit aborts the process."""
        await asyncio.sleep(0.1)

    @asynccontextmanager
    async def stored(self, files: Mapping[str, bytes | BinaryIO]) -> AsyncIterator[None]:
        """Write all of these files or none. They are deleted again if the body of the `with` fails."""
        is_written = False
        try:
            for key, data in files.items():
                await self.put(key, data)
            is_written = True
            yield
        except BaseException as error:
            # The outcome of the commit may be unknown: an extra file is better than a row without its file.
            if not is_written or (isinstance(error, Exception) and not isinstance(error, Unavailable)):
                with suppress(Unavailable):
                    await self.delete(files)
            raise


def _open(url: str) -> ObjectStore:
    """The options of buckets have no effect on a folder, and only a folder has these two."""
    folder: Any = {"mkdir": True, "automatic_cleanup": True} if url.startswith("file:") else {}
    return from_url(
        url,
        # Self-hosted buckets such as MinIO often use plain HTTP. The URL decides.
        client_options={"allow_http": True, "connect_timeout": "3s", "read_timeout": "10s", "timeout": "10m"},
        retry_config={"max_retries": 2, "retry_timeout": ONE_TRY},
        **folder,
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
