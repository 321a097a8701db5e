"""The migrations make exactly the tables that the models declare, and can be undone."""

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

from chat_app import migrations
from chat_app.database import Database
from tests.process import ROOT

# Alembic does not compare the conditions of indexes, nor the database's form of defaults and keys.
CATALOG = """
    SELECT table_name, column_name, udt_name::text, character_maximum_length::text, is_nullable, column_default
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name != 'alembic_version'
    UNION ALL
    SELECT tablename, indexname, indexdef, '', '', ''
    FROM pg_indexes WHERE schemaname = 'public' AND tablename != 'alembic_version'
    UNION ALL
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', ''
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text != 'alembic_version'
"""

NEW_CHAT = """
    INSERT INTO chat (id, type, title, member_count, message_count, version, created_at, updated_at, changed_at)
    VALUES (gen_random_uuid(), 'group', :title, 1, :count, 1, now(), now(), now()) RETURNING id
"""
NEW_MESSAGE = """
    INSERT INTO message (chat_id, seq, version, sender_id, type, like_count, sent_at)
    VALUES (:chat_id, :seq, :seq, gen_random_uuid(), :type, 0, now())
"""

WAITING_MIGRATIONS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON oid = database
    WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()
"""


@pytest.fixture
async def engine(empty_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(empty_url, poolclass=NullPool)
    yield made
    await made.dispose()


async def test_upgrading_an_empty_database_makes_the_tables_of_the_models(empty_url: str, engine: AsyncEngine) -> None:
    await asyncio.to_thread(migrations.upgrade, empty_url)

    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []
        migrated = await _catalog(connection)
        await connection.run_sync(_recreate_from_models)
        assert migrated == await _catalog(connection)
        assert any("lower(" in row[2] for row in migrated if row[2]), "the catalog query sees no functional index"


async def test_downgrading_leaves_nothing_and_upgrading_again_works(empty_url: str, engine: AsyncEngine) -> None:
    await asyncio.to_thread(migrations.upgrade, empty_url)
    await asyncio.to_thread(command.downgrade, migrations.config(empty_url), "base")
    async with engine.connect() as connection:
        assert await _catalog(connection) == set()

    await asyncio.to_thread(migrations.upgrade, empty_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []


async def test_chats_that_end_with_system_messages_get_their_newest_message_of_a_user(
    empty_url: str, engine: AsyncEngine
) -> None:
    await asyncio.to_thread(command.upgrade, migrations.config(empty_url), "0004")
    # The types of the messages of each chat.
    types = {"ts": 1, "tsts": 3, "s": 0, "sss": 0, "ttss": 2, "st": None, "t": None, "": None}
    async with engine.begin() as connection:
        for title in types:
            chat = {"title": title, "count": len(title)}
            chat_id = await connection.scalar(text(NEW_CHAT), chat)
            for seq, letter in enumerate(title, 1):
                message = {"chat_id": chat_id, "seq": seq, "type": {"t": "text", "s": "system"}[letter]}
                await connection.execute(text(NEW_MESSAGE), message)
    await asyncio.to_thread(migrations.upgrade, empty_url)
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT title, last_user_seq FROM chat"))
        assert dict(found.all()) == types


async def test_indexes_that_were_made_before_by_the_runbook_are_those_of_the_migration(
    empty_url: str, engine: AsyncEngine
) -> None:
    chapter = (ROOT / "manifests/RUNBOOK.md").read_text().partition("\n## The indexes of the search\n")[2]
    statements = chapter.partition("```sql")[2].partition("```")[0].split(";")
    await asyncio.to_thread(command.upgrade, migrations.config(empty_url), "0010")
    catalogs = []
    for made_before in (False, True):
        async with engine.connect() as connection:
            catalogs.append(await _catalog(connection))
            await connection.commit()
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            for statement in filter(str.strip, statements if not made_before else ()):
                name = statement.split()[3]
                await connection.exec_driver_sql(f"DROP INDEX {name}")
                await connection.exec_driver_sql(statement)
    assert catalogs[0] == catalogs[1]
    assert "message_search_idx" in {row[1] for row in catalogs[0]} and len(statements) == 3


async def test_simultaneous_migrations_run_one_after_the_other(empty_url: str, engine: AsyncEngine) -> None:
    upgrade = "from chat_app.migrations import upgrade; import sys; upgrade(sys.argv[1])"
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": migrations.LOCK})
        both = [await asyncio.create_subprocess_exec(sys.executable, "-c", upgrade, empty_url) for _ in range(2)]
        async with asyncio.timeout(50):
            while await connection.scalar(text(WAITING_MIGRATIONS)) != 2:  # noqa: ASYNC110  # no event to wait for
                await asyncio.sleep(0.02)

    assert [await process.wait() for process in both] == [0, 0]
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []


async def test_a_database_is_current_only_with_all_migrations(empty_url: str) -> None:
    database = Database(empty_url)
    assert not await migrations.is_current(database)
    await asyncio.to_thread(migrations.upgrade, empty_url)
    assert await migrations.is_current(database)

    # A newer version has migrated: both versions run side by side during a deploy.
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = 'from the future'"))
    assert await migrations.is_current(database)
    await database.close()


async def _catalog(connection: AsyncConnection) -> set[tuple[str | None, ...]]:
    return {tuple(row) for row in await connection.execute(text(CATALOG))}


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, SQLModel.metadata))


def _recreate_from_models(connection: Connection) -> None:
    SQLModel.metadata.drop_all(connection)
    SQLModel.metadata.create_all(connection)
