"""Who chats: users, sessions and chats, written in bulk straight into the tables; tokens by the project's own code."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from pydantic import SecretStr

from chat_app.settings import Settings, use_settings
from tests.bench.servers import PEER, SECRET

use_settings(Settings(secret=SecretStr(SECRET)))

from chat_app.auth import SessionStrategy  # noqa: E402  # reads the settings
from chat_app.crud.sessions import OpenedSession  # noqa: E402
from chat_app.models.base import new_id  # noqa: E402
from chat_app.models.sessions import Actor  # noqa: E402


class Person(NamedTuple):
    id: UUID
    session_id: UUID
    token: str


class Chat(NamedTuple):
    id: UUID
    members: list[Person]


_phones = count(79_100_000_000)


def make_people(number: int) -> list[Person]:
    strategy = SessionStrategy()
    actors = [Actor(new_id(), new_id()) for _ in range(number)]
    return [Person(*actor, strategy.tokens(OpenedSession(actor, "")).access_token) for actor in actors]


def make_chats(number: int, members: int) -> list[Chat]:
    """Chats that share no members."""
    people = make_people(number * members)
    return [Chat(new_id(), people[start : start + members]) for start in range(0, len(people), members)]


def write(url: str, people: list[Person], chats: list[Chat]) -> None:
    """Into a migrated database of ours."""
    asyncio.run(_write(url, people, chats))


async def _write(url: str, people: list[Person], chats: list[Chat]) -> None:
    connection = await asyncpg.connect(url)
    now = datetime.now(UTC)
    later = now + timedelta(days=30)
    await _copy(
        connection,
        "user",
        ("id", "phone", "name", "bio", "is_verified", "is_active"),
        [(person.id, f"+{next(_phones)}", f"Person {at}", "", True, True) for at, person in enumerate(people)],
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


def _shape(chat: Chat) -> tuple[Any, ...]:
    if len(chat.members) == 2:
        return chat.id, "private", None, None, *sorted(member.id for member in chat.members), 2, 0, 1
    return chat.id, "group", "A group", chat.members[0].id, None, None, len(chat.members), 0, 1


def write_for_node(url: str, chats: list[Chat]) -> None:
    """The same chats into the tables of Node's server."""
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
