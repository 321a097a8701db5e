"""Runs revisions on the database of the settings, or on the URL or connection in the configuration's attributes."""

import asyncpg
from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

import chat_app.models  # noqa: F401  # registers the tables
from chat_app.background import run as run_in_loop
from chat_app.migrations import LOCK
from chat_app.settings import get_settings


def run(connection: Connection) -> None:
    """All missing revisions in one transaction: a failure leaves the database as it was."""
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        # A second process waits here, then finds no revision missing.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        # While a change waits for a busy table, everybody else waits behind it: rather fail, and be tried again.
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        context.run_migrations()


async def run_online() -> None:
    url = context.config.attributes.get("url") or get_settings().asyncpg_url
    plain = url.replace("+asyncpg", "", 1)
    engine = create_async_engine(url, poolclass=NullPool, async_creator=lambda: asyncpg.connect(plain))
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("These migrations need a database")
if connection := context.config.attributes.get("connection"):
    run(connection)
else:
    run_in_loop(run_online())
