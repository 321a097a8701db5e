"""Sessions: opening, refreshing and ending them. Tokens are kept as hashes only."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func
from sqlmodel import col, select

from chat_app.database import Db, Transaction, note, read_clock
from chat_app.errors import NotAuthenticated, RefreshReused, SessionNotFound, SessionRevoked, TokenExpired
from chat_app.events import SessionsRevoked, record
from chat_app.models import Session, User
from chat_app.models.sessions import Actor, SessionRead
from chat_app.signing import sign

LIFETIME = timedelta(days=30)
# A client that lost the answer to a refresh may ask again with the token before.
REPEAT_WINDOW = timedelta(seconds=30)
UNKNOWN = "This is not a refresh token of this service: send the last one that you got, or log in again."


class OpenedSession(NamedTuple):
    """A session and its refresh token, which only the client keeps."""

    actor: Actor
    refresh_token: str


async def open_session(
    db: Transaction, user_id: UUID, user_agent: str | None, address_hash: bytes | None = None
) -> OpenedSession:
    """Log a user in on one more device. The caller has locked the user's row and checked the credential under it."""
    secret = secrets.token_bytes(32)
    now = await read_clock(db)
    row = Session(
        user_id=user_id,
        refresh_hash=_hash(secret),
        user_agent=user_agent and user_agent[:300],
        address_hash=address_hash,
        created_at=now,
        last_used_at=now,
        expires_at=now + LIFETIME,
    )
    db.add(row)
    await db.flush()
    return OpenedSession(Actor(user_id, row.id), _refresh_token(row.id, secret))


async def refresh_session(db: Transaction, refresh_token: str) -> OpenedSession:
    """Exchange a refresh token for its successor; the direct predecessor gets the same one again for 30 seconds.

    Raises NotAuthenticated, SessionRevoked, TokenExpired, or RefreshReused: then the session is over.
    """
    session_id, secret = _parse(refresh_token)
    row = await db.get(Session, session_id, with_for_update=True, populate_existing=True)
    now = await read_clock(db)
    if row is None:
        raise NotAuthenticated(UNKNOWN)
    is_active = (await db.exec(select(User.is_active).where(User.id == row.user_id))).one()
    if row.revoked_at or not is_active:
        raise SessionRevoked
    if row.expires_at <= now:
        raise TokenExpired
    # The successor follows from the token itself, so the second answer can equal the first without storing either.
    successor = sign("refresh", secret)
    if _hash(secret) == row.refresh_hash:
        row.previous_hash, row.refresh_hash = row.refresh_hash, _hash(successor)
        row.last_used_at, row.expires_at = now, now + LIFETIME
    elif _hash(secret) != row.previous_hash or now - row.last_used_at > REPEAT_WINDOW:
        await _revoke(db, [row])
        raise RefreshReused
    await db.flush()
    note(db, user=row.user_id, session=row.id)
    return OpenedSession(Actor(row.user_id, row.id), _refresh_token(row.id, successor))


def hash_address(phone: str | None, address: str | None) -> bytes:
    """The address of a login as it is stored: an HMAC that can't be compared across numbers."""
    return sign("address|", f"{phone}|{address}")


_IS_FAMILIAR = """
SELECT FROM session JOIN "user" ON "user".id = user_id
WHERE phone = $1 AND address_hash = $2 AND revoked_at IS NULL AND expires_at > now() LIMIT 1
"""


async def is_familiar(db: Db, phone: str | None, address_hash: bytes | None) -> bool:
    """Whether a living session of this number was opened from this address."""
    return bool(await db.fetch(_IS_FAMILIAR, phone, address_hash))


async def has_sessions(db: Transaction, user_id: UUID) -> bool:
    """Whether the user has ever logged in."""
    return (await db.exec(select(Session.id).where(Session.user_id == user_id).limit(1))).first() is not None


_STATE = """
SELECT active_chat_id, revoked_at IS NOT NULL OR NOT is_active AS is_over, expires_at <= now() AS is_late
FROM session JOIN "user" ON "user".id = user_id WHERE session.id = $1 AND user_id = $2
"""


async def check_session(db: Db, actor: Actor) -> UUID | None:
    """Returns the active chat of the actor's session. Raises SessionRevoked or TokenExpired if it has ended."""
    rows = await db.fetch(_STATE, actor.session_id, actor.id)
    if not rows or rows[0]["is_over"]:
        raise SessionRevoked
    if rows[0]["is_late"]:
        raise TokenExpired
    active_chat_id: UUID | None = rows[0]["active_chat_id"]
    return active_chat_id


async def list_sessions(db: Transaction, actor: Actor) -> list[SessionRead]:
    """The actor's sessions that have not ended, the latest used first."""
    is_own, is_living = Session.user_id == actor.id, col(Session.revoked_at).is_(None)
    living = select(Session).where(is_own, is_living, col(Session.expires_at) > func.now())
    rows = await db.exec(living.order_by(col(Session.last_used_at).desc(), col(Session.id)))
    return [
        SessionRead.model_validate(row, update={"is_current": row.id == actor.session_id}, from_attributes=True)
        for row in rows
    ]


async def revoke_session(db: Transaction, actor: Actor, session_id: UUID) -> None:
    """End one of the actor's sessions; its connections close. Raises SessionNotFound."""
    row = await db.get(Session, session_id, with_for_update=True, populate_existing=True)
    if row is None or row.user_id != actor.id or row.revoked_at:
        raise SessionNotFound
    await _revoke(db, [row])


async def revoke_sessions(db: Transaction, user_id: UUID, *, keep: UUID | None = None) -> int:
    """End all sessions of a user, except one that is to stay. Returns how many ended."""
    living = select(Session).where(Session.user_id == user_id, col(Session.revoked_at).is_(None))
    rows = await db.exec(living.order_by(col(Session.id)).with_for_update())
    ended = [row for row in rows if row.id != keep]
    await _revoke(db, ended)
    return len(ended)


_ENDED = """
SELECT given.id FROM unnest($1::uuid[]) AS given (id) WHERE NOT EXISTS (
    SELECT FROM session JOIN "user" ON "user".id = user_id
    WHERE session.id = given.id AND revoked_at IS NULL AND expires_at > clock_timestamp() AND is_active
)
"""


async def list_ended(db: Db, session_ids: Iterable[UUID]) -> set[UUID]:
    """Those of the sessions that are revoked, expired or of a deactivated user, also by a plain SQL update."""
    return {row["id"] for row in await db.fetch(_ENDED, list(session_ids))}


_ACTIVE = """
SELECT session.id, active_chat_id AS chat_id, coalesce(version, 0) AS version
FROM session LEFT JOIN chat ON chat.id = active_chat_id WHERE session.id = ANY($1::uuid[])
"""


async def read_active(db: Db, session_ids: Iterable[UUID]) -> dict[UUID, tuple[UUID | None, int]]:
    """The active chats of sessions, with the versions of these chats."""
    return {row["id"]: (row["chat_id"], row["version"]) for row in await db.fetch(_ACTIVE, list(session_ids))}


async def clear_active_chat(db: Transaction, chat_id: UUID, user_ids: list[UUID]) -> None:
    """Clear the active chat of the sessions of users who are no longer its members."""
    clear = "UPDATE session SET active_chat_id = NULL WHERE user_id = ANY($1::uuid[]) AND active_chat_id = $2"
    await db.fetch(clear, user_ids, chat_id)


async def _revoke(db: Transaction, rows: list[Session]) -> None:
    if not rows:
        return
    now = await read_clock(db)
    for row in rows:
        row.revoked_at = now
    await db.flush()
    note(db, "sessions revoked", user=rows[0].user_id, revoked=[row.id for row in rows])
    record(db, SessionsRevoked(session_ids=[row.id for row in rows]), {})


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _refresh_token(session_id: UUID, secret: bytes) -> str:
    content = session_id.bytes + secret
    return base64.urlsafe_b64encode(content + _seal(content)).decode()


def _seal(content: bytes) -> bytes:
    return sign("refresh token", content)[:16]


def _parse(refresh_token: str) -> tuple[UUID, bytes]:
    """The session and the secret. The seal keeps made-up tokens from ending a session. Raises NotAuthenticated."""
    try:
        token = base64.urlsafe_b64decode(refresh_token)
    except ValueError as error:
        raise NotAuthenticated(UNKNOWN) from error
    content, seal = token[:-16], token[-16:]
    if len(token) != 64 or not hmac.compare_digest(seal, _seal(content)):
        raise NotAuthenticated(UNKNOWN)
    return UUID(bytes=content[:16]), content[16:]
