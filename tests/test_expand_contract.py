"""During a deploy the old version works on the tables of the new one: its statements still succeed.

A new revision adds here the statements of its code on each table that it changed.
"""

import asyncio
import re
from itertools import pairwise
from uuid import uuid4

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from chat_app import migrations

# By revision, for each table that it made or changed: the statements of its code, with every column.
STATEMENTS = {
    "0001": {
        "user": [
            """INSERT INTO "user" (id, phone, hashed_password, name, username, bio, avatar_key, is_verified, is_active,
                last_seen_at) VALUES (:one, :name, NULL, 'Anna', :name, '', NULL, false, true, NULL)""",
            """INSERT INTO "user" (id, phone, name, bio, is_verified, is_active)
                VALUES (:two, :name || '2', 'Boris', '', false, true)""",
            """SELECT id, phone, hashed_password, name, username, bio, avatar_key, is_verified, is_active, last_seen_at,
                created_at FROM "user" WHERE phone = :name OR lower(username) = lower(:name)""",
            """UPDATE "user" SET name = 'Anna B', username = NULL, avatar_key = 'key',
                is_verified = true WHERE id = :one""",
        ],
        "session": [
            """INSERT INTO session (id, user_id, refresh_hash, previous_hash, user_agent, active_chat_id, created_at,
                last_used_at, expires_at, revoked_at)
                VALUES (:one, :one, 'hash', NULL, NULL, NULL, now(), now(), now(), NULL)""",
            "SELECT id FROM session WHERE revoked_at > now()",
            """UPDATE session SET previous_hash = refresh_hash, refresh_hash = 'next', active_chat_id = :one,
                revoked_at = now() WHERE id = :one""",
        ],
        "chat": [
            """INSERT INTO chat (id, type, title, creator_id, low_id, high_id, client_id, content_hash, member_count,
                message_count, version, created_at, updated_at, changed_at, deleted_at)
                VALUES (:one, 'private', NULL, NULL, :one, :two, NULL, NULL, 2, 0, 1, now(), now(), now(), NULL)
                ON CONFLICT (low_id, high_id) WHERE low_id IS NOT NULL DO NOTHING""",
            """INSERT INTO chat (id, type, title, creator_id, client_id, content_hash, member_count,
                message_count, version,
                created_at, updated_at, changed_at)
                VALUES (:two, 'group', 'Trip', :one, :two, 'hash', 2, 1, 1, now(), now(), now())
                ON CONFLICT (creator_id, client_id) WHERE client_id IS NOT NULL DO NOTHING""",
            "SELECT id, message_count, version FROM chat WHERE id = :one FOR NO KEY UPDATE",
            """UPDATE chat SET message_count = message_count + 1, version = version + 1, updated_at = now(),
                changed_at = now(), low_id = NULL, high_id = NULL, type = 'group',
                deleted_at = now() WHERE id = :one""",
        ],
        "membership": [
            """INSERT INTO membership (chat_id, user_id, version, joined_version, joined_at, removed_at, removed_reason,
                changed_at, title, pinned_at, visible_from_seq, last_read_seq, mine_version)
                VALUES (:one, :one, 1, 1, now(), NULL, NULL, now(), NULL, NULL, 1, 0, 1)
                ON CONFLICT (chat_id, user_id) DO UPDATE SET removed_at = NULL""",
            "SELECT user_id, visible_from_seq FROM membership WHERE chat_id = :one AND removed_at IS NULL",
            """UPDATE membership SET last_read_seq = 1, mine_version = mine_version + 1, pinned_at = now(),
                title = 'Mine',
                removed_reason = 'left' WHERE chat_id = :one AND user_id = :one""",
        ],
        "message": [
            """INSERT INTO message (chat_id, seq, version, sender_id, client_id, content_hash, type, text,
                payload, reply_to,
                like_count, sent_at, edited_at, deleted_at)
                VALUES (:one, 1, 1, :one, :one, 'hash', 'text', 'hello', '{}', NULL, 0, now(), NULL, NULL)""",
            """INSERT INTO message (chat_id, seq, version, sender_id, client_id, type, like_count, sent_at)
                VALUES (:one, 2, 2, :one, NULL, 'system', 0, now())""",
            "SELECT seq, content_hash FROM message WHERE (chat_id, sender_id, client_id) = (:one, :one, :one)",
            "SELECT seq FROM message WHERE chat_id = :one AND version > 0 ORDER BY version",
            """UPDATE message SET text = NULL, payload = NULL, reply_to = NULL, like_count = like_count + 1,
                edited_at = NULL,
                deleted_at = now() WHERE chat_id = :one AND seq = 1""",
        ],
        "like": [
            """INSERT INTO "like" (chat_id, seq, user_id) VALUES (:one, 1, :one)
                ON CONFLICT (chat_id, seq, user_id) DO NOTHING""",
            'SELECT user_id, created_at FROM "like" WHERE chat_id = :one AND seq = 1',
            'DELETE FROM "like" WHERE chat_id = :one AND seq = 1',
        ],
        "attachment": [
            """INSERT INTO attachment (id, owner_id, chat_id, seq, name, content_type, size, width, height,
                duration, key,
                preview_key) VALUES (:one, :one, NULL, NULL, 'a', 'a/b', 1, NULL, NULL, NULL, 'key', NULL)""",
            "SELECT id, created_at FROM attachment WHERE id = :one AND chat_id IS NULL",
            "UPDATE attachment SET chat_id = :one, seq = 1 WHERE id = :one AND chat_id IS NULL",
            "DELETE FROM attachment WHERE chat_id = :one AND seq = 1",
        ],
    },
    "0002": {
        "code": [
            """INSERT INTO code (phone, purpose, hash, attempts, expires_at, sent_at)
                VALUES (:name, 'login', 'hash', 0, now(), now())
                ON CONFLICT (phone, purpose) DO UPDATE SET sent_at = now() WHERE code.sent_at < now()""",
            "SELECT hash, attempts, expires_at, sent_at FROM code WHERE (phone, purpose) = (:name, 'login')",
            "UPDATE code SET attempts = attempts + 1 WHERE (phone, purpose) = (:name, 'login')",
        ],
    },
}

STATEMENTS["0003"] = {
    "session": [
        """INSERT INTO session (id, user_id, refresh_hash, previous_hash, user_agent, active_chat_id, created_at,
            last_used_at, expires_at, revoked_at, address_hash)
            VALUES (:one, :one, 'hash', NULL, NULL, NULL, now(), now(), now(), NULL, 'hash')""",
        *STATEMENTS["0001"]["session"][1:],
        "SELECT id FROM session WHERE address_hash = 'hash' AND revoked_at IS NULL",
    ],
}

STATEMENTS["0005"] = {
    "chat": [
        *STATEMENTS["0001"]["chat"][:2],
        "SELECT id, message_count, last_user_seq, version FROM chat WHERE id = :one FOR NO KEY UPDATE",
        """UPDATE chat SET message_count = message_count + 1, last_user_seq = NULL, version = version + 1,
            updated_at = now(), changed_at = now(), low_id = NULL, high_id = NULL, type = 'group',
            deleted_at = now() WHERE id = :one""",
    ],
}

STATEMENTS["0006"] = {
    "message": [
        """INSERT INTO message (chat_id, seq, version, sender_id, client_id, content_hash, type, text, extra, payload,
            reply_to, like_count, sent_at, edited_at, deleted_at)
            VALUES (:one, 1, 1, :one, :one, 'hash', 'custom', 'hello', '{"a": 1}', NULL, NULL, 0, now(), NULL, NULL)""",
        *STATEMENTS["0001"]["message"][1:-1],
        """UPDATE message SET text = NULL, extra = NULL, payload = NULL, reply_to = NULL, like_count = like_count + 1,
            edited_at = NULL, deleted_at = now() WHERE chat_id = :one AND seq = 1""",
    ],
    "user": [
        """INSERT INTO "user" (id, phone, hashed_password, name, username, bio, extra, avatar_key, is_verified,
            is_active, last_seen_at)
            VALUES (:one, :name, NULL, 'Anna', :name, '', '{"a": 1}', NULL, false, true, NULL)""",
        *STATEMENTS["0001"]["user"][1:],
    ],
}

STATEMENTS["0007"] = {
    "membership": [
        *STATEMENTS["0001"]["membership"][:1],
        "SELECT user_id, visible_from_seq FROM membership WHERE chat_id = :one AND NOT hidden AND archived_at IS NULL",
        """UPDATE membership SET last_read_seq = 1, mine_version = mine_version + 1, pinned_at = now(), title = 'Mine',
            muted_until = now(), archived_at = now(), marked_unread = false, draft = '{"text": "and"}', hidden = true,
            removed_reason = 'left' WHERE chat_id = :one AND user_id = :one""",
    ],
}

STATEMENTS["0008"] = {
    "chat": [
        *STATEMENTS["0001"]["chat"][:1],
        """INSERT INTO chat (id, type, title, creator_id, client_id, founding_key, content_hash, member_count,
            message_count, version, created_at, updated_at, changed_at)
            VALUES (:two, 'group', 'Trip', :one, :two, :one, 'hash', 2, 1, 1, now(), now(), now())
            ON CONFLICT DO NOTHING""",
        *STATEMENTS["0005"]["chat"][2:],
        """UPDATE chat SET picture_key = 'key', description = 'We meet', creator_id = :two, client_id = NULL,
            founding_key = :two WHERE id = :two""",
    ],
    "attachment": [
        """INSERT INTO attachment (id, owner_id, chat_id, seq, name, content_type, size, width, height, duration, key,
            preview_key, waveform)
            VALUES (:one, :one, NULL, NULL, 'a', 'a/b', 1, NULL, NULL, NULL, 'key', NULL, '[1]')""",
        *STATEMENTS["0001"]["attachment"][1:],
    ],
}
STATEMENTS["0009"] = {
    "message": [
        *STATEMENTS["0006"]["message"],
        """INSERT INTO message (chat_id, seq, version, sender_id, client_id, type, forwarded, like_count, sent_at)
            VALUES (:one, 3, 3, :one, NULL, 'text', '{}', 0, now())""",
        "SELECT reactions, forwarded FROM message WHERE chat_id = :one AND pinned_at IS NOT NULL",
        """UPDATE message SET reactions = '[]', pinned_at = now(), forwarded = NULL
            WHERE chat_id = :one AND seq = 3""",
    ],
    "reaction": [
        "INSERT INTO reaction (chat_id, seq, user_id, emoji, version) VALUES (:one, 3, :one, :name, 4)",
        "SELECT emoji, version FROM reaction WHERE chat_id = :one AND seq = 3 AND user_id = :one",
        "DELETE FROM reaction WHERE chat_id = :one AND seq = 3",
    ],
    "attachment": [*STATEMENTS["0008"]["attachment"], "SELECT id FROM attachment WHERE key = 'key'"],
}

STATEMENTS["0010"] = {
    "message": [
        *STATEMENTS["0009"]["message"],
        """UPDATE message SET text = 'better', edited_at = now(), version = version + 1
            WHERE chat_id = :one AND seq = 2""",
        "SELECT seq FROM message WHERE chat_id = :one AND sent_at > now() - interval '1 day' ORDER BY sent_at DESC",
    ],
}

# What the code of each revision reads with columns that are named without their table.
STATEMENTS["0005"]["user"] = [
    *STATEMENTS["0001"]["user"],
    """WITH page AS (SELECT chat.*, user_id FROM membership JOIN chat ON chat.id = chat_id WHERE id = :one)
        SELECT page.id, peer.id AS peer_id, peer.name, avatar_key
        FROM page LEFT JOIN "user" AS peer ON peer.id = low_id""",
]

REVISIONS = [script.revision for script in ScriptDirectory.from_config(migrations.config()).walk_revisions()][::-1]
COLUMNS = """
    SELECT table_name, column_name FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name != 'alembic_version'
"""


def statements(revision: str) -> dict[str, list[str]]:
    """The statements of a revision's code for each table: the latest recorded up to it."""
    known: dict[str, list[str]] = {}
    for earlier in REVISIONS[: REVISIONS.index(revision) + 1]:
        known |= STATEMENTS.get(earlier, {})
    return known


async def use(connection: AsyncConnection, revision: str) -> None:
    """Run the statements of a node of that revision, with rows of its own."""
    values = {"one": uuid4(), "two": uuid4(), "name": f"a{uuid4().hex[:20]}"}
    for recorded in statements(revision).values():
        for statement in recorded:
            used = {name: value for name, value in values.items() if f":{name}" in statement}
            done = await connection.execute(text(statement), used)
            assert done.returns_rows or done.rowcount == 1, statement
    await connection.commit()


@pytest.mark.parametrize(("old", "new"), list(pairwise(REVISIONS)))
async def test_the_version_before_still_works_on_the_new_tables(empty_url: str, old: str, new: str) -> None:
    engine = create_async_engine(empty_url, poolclass=NullPool)
    await asyncio.to_thread(command.upgrade, migrations.config(empty_url), old)
    async with engine.connect() as connection:
        await use(connection, old)
        await asyncio.to_thread(command.upgrade, migrations.config(empty_url), new)
        # The same connection, with its prepared statements, and a new one.
        await use(connection, old)
    async with engine.connect() as connection:
        await use(connection, old)
        await use(connection, new)
    await engine.dispose()


async def test_the_statements_of_the_newest_revision_are_recorded(empty_url: str) -> None:
    engine = create_async_engine(empty_url, poolclass=NullPool)
    await asyncio.to_thread(migrations.upgrade, empty_url)
    async with engine.connect() as connection:
        columns = {(table, column) for table, column in await connection.execute(text(COLUMNS))}
        await use(connection, REVISIONS[-1])
    await engine.dispose()
    recorded = {table: set(re.findall(r"\w+", " ".join(lines))) for table, lines in statements(REVISIONS[-1]).items()}
    assert {(table, column) for table, column in columns if column not in recorded.get(table, set())} == set()
