"""Checks that rows agree with rows and files, and removes unused files. Safe while the service runs."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from chat_app.crud.avatars import SIZES
from chat_app.database import Database
from chat_app.media.storage import Storage
from chat_app.models.messages import WITH_ATTACHMENT

# A younger file may belong to an upload in progress, or to a message that will be sent soon.
AGE = timedelta(days=1)
AT_ONCE = 20

# Other files in the storage are not ours.
OURS = re.compile(
    r"(?P<file>attachments/[0-9a-f]{32}/.+?)(-preview)?|avatars/(?P<avatar>[0-9a-f]{40}\.(?:jpg|png))/[a-z]+"
)


def _queries(file: str) -> dict[str, str]:
    """The queries of a file, by the comment above each."""
    return dict(re.findall(r"-- (.+)\n(\w[^;]+);", Path(__file__).with_name(file).read_bytes().decode()))


# By rule, the query that finds its violations.
RULES = _queries("rules.sql")
FILES = _queries("files.sql")
OF_ROWS = FILES["files of rows"]
PICTURES = {"pictures": list(SIZES)}
# A file is deleted after its row, so a missing file is a violation only if the row is still there.
STILL_THERE = text(f"SELECT 1 FROM ({OF_ROWS}) AS file WHERE id = :id AND key = :key")


async def verify(database: Database, storage: Storage) -> AsyncIterator[str]:
    """Describe every violation."""
    async with _reader(database) as reader:
        for rule, query in RULES.items():
            async for row in await reader.stream(text(query), {"with_attachment": list(WITH_ATTACHMENT)}):
                yield f"{rule}: {' '.join(f'{name}={value}' for name, value in row._mapping.items())}"
        async for violation in _verify_files(database, storage, reader):
            yield violation


async def _verify_files(database: Database, storage: Storage, reader: AsyncConnection) -> AsyncIterator[str]:
    async def verify_file(row: Any) -> str | None:
        found = await storage.size(row.key)
        if found is not None and row.size in (None, found):
            return None
        async with database.engine.connect() as connection:
            if await connection.scalar(STILL_THERE, PICTURES | {"id": row.id, "key": row.key}) is None:
                return None
        return f"a file is missing or has another size: {row.key} size={found} expected={row.size or 'any'}"

    async for rows in (await reader.stream(text(OF_ROWS), PICTURES)).partitions(AT_ONCE):
        for violation in filter(None, await asyncio.gather(*map(verify_file, rows))):
            yield violation


async def sweep(database: Database, storage: Storage, *, is_deleting: bool) -> AsyncIterator[str]:
    """Find unsent attachments and files without a row, if older than a day. `is_deleting` deletes them too."""
    before = datetime.now(UTC) - AGE
    async with _reader(database) as reader:
        async for rows in (await reader.stream(text(FILES["unsent attachments"]), {"before": before})).partitions(1000):
            ids = [row.id for row in rows]
            for attachment_id in await _delete_unsent(database, storage, ids) if is_deleting else ids:
                yield f"attachment {attachment_id}"
    for folder in ("attachments", "avatars"):
        async for page in storage.list(folder):
            old = [key for key, written_at in page.items() if written_at < before]
            unused = await _without_row(database, old)
            if is_deleting:
                await storage.delete(unused)
            for key in unused:
                yield f"file {key}"


async def _delete_unsent(database: Database, storage: Storage, ids: Iterable[UUID]) -> list[UUID]:
    """Delete attachments, except those sent meanwhile. Returns the deleted ids."""
    async with database.transaction() as db:
        rows = await db.fetch(FILES["delete unsent attachments"], ids)
    await storage.delete([key for _, *keys in rows for key in keys if key is not None])
    return [attachment_id for attachment_id, *_ in rows]


async def _without_row(database: Database, keys: Iterable[str]) -> list[str]:
    """The files without a row. The files were listed first, so rows of new files are found."""
    ours = {key: found for key in keys if (found := OURS.fullmatch(key))}
    files = {found["file"] for found in ours.values() if found["file"]}
    avatars = {found["avatar"] for found in ours.values() if found["avatar"]}
    async with database.engine.connect() as connection:
        values = {"files": [*files], "avatars": [*avatars]}
        known = set(await connection.scalars(text(FILES["keys with a row"]), values))
    return [key for key, found in ours.items() if not {key, found["avatar"]} & known]


@asynccontextmanager
async def _reader(database: Database) -> AsyncIterator[AsyncConnection]:
    """A read-only snapshot of all tables, without the time limits of requests."""
    engine = create_async_engine(database.engine.url, poolclass=NullPool, hide_parameters=True)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection
    finally:
        await engine.dispose()
