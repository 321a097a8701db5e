"""Writes users, sessions and chats in bulk directly into the tables. Tokens are made by the project's own code."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from pydantic import SecretStr

from chat_app.auth import SessionStrategy
from chat_app.crud.sessions import OpenedSession
from chat_app.models.base import new_id
from chat_app.models.sessions import Actor
from chat_app.settings import Settings, use_settings
from tests.bench.servers import PEER, SECRET


class Person(NamedTuple):
    id: UUID
    session_id: UUID
    token: str


class Chat(NamedTuple):
    id: UUID
    members: list[Person]


_phones = count(79_100_000_000)


def use_secret() -> None:
    """Sign tokens as the measured server does."""
    use_settings(Settings(secret=SecretStr(SECRET)))


def make_people(number: int) -> list[Person]:
    return [fresh(Person(new_id(), new_id(), "")) for _ in range(number)]


def fresh(person: Person) -> Person:
    """The same person with a new token, since tokens last for minutes only."""
    opened = OpenedSession(Actor(person.id, person.session_id), "")
    return person._replace(token=SessionStrategy().tokens(opened).access_token)


def make_chats(number: int, members: int) -> list[Chat]:
    """Chats that share no members."""
    people = make_people(number * members)
    return [Chat(new_id(), people[start : start + members]) for start in range(0, len(people), members)]


def members_of(chats: Iterable[Chat]) -> list[Person]:
    return [member for chat in chats for member in chat.members]


def write(url: str, people: list[Person], chats: list[Chat], hashed_password: str | None = None) -> list[str]:
    """Write to a migrated database of ours. Returns the phones."""
    return asyncio.run(_write(url, people, chats, hashed_password))


async def _write(url: str, people: list[Person], chats: list[Chat], hashed_password: str | None) -> list[str]:
    phones = [f"+{next(_phones)}" for _ in people]
    connection = await asyncpg.connect(url)
    now = datetime.now(UTC)
    later = now + timedelta(days=30)
    await _copy(
        connection,
        "user",
        ("id", "phone", "hashed_password", "name", "bio", "is_verified", "is_active"),
        [
            (person.id, phone, hashed_password, f"Person {phone}", "", True, True)
            for person, phone in zip(people, phones, strict=True)
        ],
    )
    await _copy(
        connection,
        "session",
        ("id", "user_id", "refresh_hash", "created_at", "last_used_at", "expires_at"),
        [(person.session_id, person.id, b"", now, now, later) for person in people],
    )
    times = ("created_at", "updated_at", "changed_at")
    shape = ("id", "type", "title", "creator_id", "low_id", "high_id", "member_count", "message_count", "version")
    await _copy(connection, "chat", (*shape, *times), [(*_shape(chat), now, now, now) for chat in chats])
    counters = ("version", "joined_version", "visible_from_seq", "last_read_seq", "mine_version")
    await _copy(
        connection,
        "membership",
        ("chat_id", "user_id", *counters, "joined_at", "changed_at"),
        [(chat.id, member.id, 1, 1, 1, 0, 1, now, now) for chat in chats for member in chat.members],
    )
    await connection.execute("ANALYZE")
    await connection.close()
    return phones


def fill(url: str, chats: list[Chat], length: int) -> None:
    """Give each of these chats `length` messages, a minute apart, from alternating members."""
    asyncio.run(_fill(url, [chat.id for chat in chats], length))


async def _fill(url: str, chat_ids: list[UUID], length: int) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(
        """
        INSERT INTO message (chat_id, seq, version, client_id, type, text, sender_id, like_count, sent_at)
        SELECT members.chat_id, seq, seq + 1, gen_random_uuid(), 'text', repeat('Some words. ', 1 + seq % 15),
               ids[1 + seq % cardinality(ids)], 0, now() - (n - seq) * interval '1 minute'
        FROM (SELECT chat_id, array_agg(user_id) AS ids FROM membership GROUP BY chat_id) AS members,
             (SELECT $2::int AS n) AS length, generate_series(1, n) AS seq
        WHERE members.chat_id = ANY($1)
        """,
        chat_ids,
        length,
    )
    await connection.execute(
        """
        UPDATE chat SET message_count = $2::bigint, version = $2::bigint + 1,
               updated_at = now() - random() * interval '1 day'
        WHERE id = ANY($1)
        """,
        chat_ids,
        length,
    )
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


def add_words(url: str, chat_ids: list[UUID], word: str) -> None:
    """Add a word to one message of each of these chats."""
    asyncio.run(_add_words(url, chat_ids, word))


async def _add_words(url: str, chat_ids: list[UUID], word: str) -> None:
    connection = await asyncpg.connect(url)
    text = f"UPDATE message SET text = text || ' {word}' WHERE chat_id = ANY($1) AND seq = 7"
    await connection.execute(text, chat_ids)
    await connection.execute("VACUUM ANALYZE message")
    await connection.close()


def _shape(chat: Chat) -> tuple[Any, ...]:
    if len(chat.members) == 2:
        return chat.id, "private", None, None, *sorted(member.id for member in chat.members), 2, 0, 1
    return chat.id, "group", "A group", chat.members[0].id, None, None, len(chat.members), 0, 1


def write_for_node(url: str, chats: list[Chat]) -> None:
    """Write the same chats to the tables of Node's server."""
    asyncio.run(_write_for_node(url, chats))


async def _write_for_node(url: str, chats: list[Chat]) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute((PEER / "schema.sql").read_text())
    await _copy(connection, "chats", ("id", "title"), [(chat.id, "A chat") for chat in chats])
    rows = [(chat.id, member.id) for chat in chats for member in chat.members]
    await _copy(connection, "members", ("chat_id", "user_id"), rows)
    await connection.execute("ANALYZE")
    await connection.close()


async def _copy(connection: Any, table: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    await connection.copy_records_to_table(table, columns=columns, records=rows)
