"""The fastapi-users corner: registration, passwords, JWT. Only here the library's word "email" means a phone.

The library's are the bearer scheme, the making of tokens and the password helper; ours are accounts, sessions and the
reading of tokens.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import jwt
from fastapi import Request
from fastapi_users import BaseUserManager, UUIDIDMixin
from fastapi_users.authentication import JWTStrategy
from fastapi_users.db import BaseUserDatabase
from fastapi_users.jwt import generate_jwt
from fastapi_users.password import PasswordHelper
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ColumnElement
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from chat_app.crud import codes, sessions
from chat_app.crud.sessions import OpenedSession
from chat_app.crud.users import change_user, lock_user
from chat_app.database import Db, Transaction, note
from chat_app.errors import (
    BadCode,
    BadCredentials,
    NotAuthenticated,
    PhoneNotVerified,
    PhoneTaken,
    TokenExpired,
    Unavailable,
)
from chat_app.logs import bind, log_info
from chat_app.models import User
from chat_app.models.base import Phone
from chat_app.models.codes import CodeLogin, CodeUse, PasswordChange, PasswordReset, Purpose
from chat_app.models.sessions import Actor, Device, Tokens
from chat_app.models.users import DEFAULT_NAME, UserCreate
from chat_app.settings import get_settings

Result = TypeVar("Result")

AUDIENCE = "chat_app"
CLAIMS = ["exp", "iat", "sub", "sid", "aud"]
LOGIN_PATH = "/api/v1/auth/login"
PREFIXED = "The token itself begins with `Bearer`: leave that word out of it."
UNREADABLE = (
    "This is not an access token of this service: send the `access_token` of a login as it is, or log in again."
)
MOST_WAITING = 100


def _stand_back() -> None:
    """Let hashing have only the processor time that others leave: on Linux each thread has its own priority."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


# OWASP's parameters for argon2id: 19 MiB, 2 passes, 1 lane. One at a time, so that a login storm leaves a core free.
_passwords = PasswordHelper(PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19456, parallelism=1),)))
_hashing = ThreadPoolExecutor(1, "passwords", _stand_back)
_phone: TypeAdapter[str] = TypeAdapter(Phone)


async def hash_password(password: str) -> str:
    """Hash a password off the event loop. Raises Unavailable when too many are waiting."""
    return await _off_loop(_passwords.hash, password)


async def _off_loop(function: Callable[..., Result], *arguments: Any) -> Result:
    if _hashing._work_queue.qsize() >= MOST_WAITING:
        raise Unavailable
    return await asyncio.get_running_loop().run_in_executor(_hashing, function, *arguments)


class UserManager(UUIDIDMixin, BaseUserManager[User, UUID]):  # type: ignore[type-var]  # a User has a phone for an email
    """The library's manager with the slow part, hashing, off the event loop and out of transactions.

    It flushes; the commit is made at the edge.
    """

    def __init__(self, db: Transaction) -> None:
        super().__init__(BaseUserDatabase(), _passwords)
        self.db = db

    async def create(self, user_create: UserCreate, safe: bool = True, request: Request | None = None) -> User:  # type: ignore[override]  # our own schema
        """Register. Raises PhoneTaken."""
        hashed = await hash_password(user_create.password)
        fields = {"phone": user_create.phone, "name": user_create.name, "hashed_password": hashed}
        user = await self.insert_user(fields) or await self._register_anew(fields)
        note(self.db, "registered", user=user.id)
        return user

    async def insert_user(self, fields: dict[str, Any]) -> User | None:
        """A new user; None if the number is taken."""
        values = User(**fields).model_dump(exclude={"created_at"})
        inserted = insert(User).values(values).on_conflict_do_nothing(index_elements=["phone"]).returning(col(User.id))
        user_id = (await self.db.exec(inserted)).scalar_one_or_none()
        return await self.db.get(User, user_id) if user_id else None

    async def _register_anew(self, fields: dict[str, Any]) -> User:
        """Where numbers must be verified, an account that was never used blocks no number. Raises PhoneTaken."""
        if get_settings().phone_verification != "required":
            raise PhoneTaken
        user = await lock_user(self.db, col(User.phone) == fields["phone"])
        if user is None or user.is_verified or not user.is_active or await sessions.has_sessions(self.db, user.id):
            raise PhoneTaken
        return await change_user(self.db, user, fields)

    async def check_password(self, is_meant: ColumnElement[bool], password: str) -> User | None:
        """The user, locked, if this is the password; otherwise None, after the same time, also without such a user."""
        while True:
            user = (await self.db.exec(select(User).where(is_meant))).first()
            stored = user and user.hashed_password
            # While the password is checked the connection serves others.
            await self.db.close()
            if stored is None:
                await hash_password(password)
                return None
            is_right, rehashed = await _off_loop(_passwords.verify_and_update, password, stored)
            if not is_right:
                return None
            user = await lock_user(self.db, is_meant)
            # A password that was changed meanwhile is checked anew.
            if user is not None and user.hashed_password == stored:
                return await change_user(self.db, user, {"hashed_password": rehashed}) if rehashed else user


class SessionStrategy(JWTStrategy[User, UUID]):  # type: ignore[type-var]  # as above
    """Access tokens that carry the session, and are valid until it ends. `authenticate` reads them, not the library."""

    def __init__(self) -> None:
        settings = get_settings()
        super().__init__(settings.signing_secret.decode(), settings.access_seconds, [AUDIENCE])

    def decode(self, token: str) -> Actor:
        """The actor of a token. Raises NotAuthenticated, TokenExpired."""
        try:
            claims = jwt.decode(
                token,
                str(self.decode_key),
                audience=AUDIENCE,
                algorithms=[self.algorithm],
                options={"require": CLAIMS, "verify_iat": False},  # another node's clock may be ahead
            )
            return Actor(UUID(claims["sub"]), UUID(claims["sid"]))
        except jwt.ExpiredSignatureError as error:
            raise TokenExpired from error
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
            raise NotAuthenticated(PREFIXED if token[:7].lower() == "bearer " else UNREADABLE) from error

    def tokens(self, opened: OpenedSession) -> Tokens:
        """The tokens of a session that was opened or refreshed."""
        user_id, session_id = map(str, opened.actor)
        claims = {"sub": user_id, "sid": session_id, "aud": AUDIENCE, "iat": datetime.now(UTC)}
        token = generate_jwt(claims, self.encode_key, self.lifetime_seconds, algorithm=self.algorithm)
        return Tokens(access_token=token, refresh_token=opened.refresh_token, expires_in=get_settings().access_seconds)


def plain_phone(phone: str) -> str | None:
    """The number in E.164, from any form of writing; None for other texts."""
    try:
        return _phone.validate_python(phone)
    except ValidationError:
        return None


async def log_in(db: Transaction, phone: str, password: str, device: Device) -> Tokens:
    """Open a session with phone and password. Raises BadCredentials, PhoneNotVerified."""
    user = await UserManager(db).check_password(col(User.phone) == plain_phone(phone), password)
    if user is None or not user.is_active:
        raise BadCredentials
    if get_settings().phone_verification == "required" and not user.is_verified:
        raise PhoneNotVerified
    return await _open_session(db, user, device)


async def log_in_with_code(db: Transaction, data: CodeLogin, device: Device) -> Tokens:
    """Open a session with a code; a number that is new becomes a user. Raises BadCode."""
    hashed = await hash_password(data.password) if data.password else None
    user = await _use_code(db, data, Purpose.LOGIN)
    # Before the first proof the account may belong to somebody who registered another person's number.
    if hashed or not user.is_verified:
        await _set_password(db, user, hashed)
    return await _open_session(db, user, device)


async def _open_session(db: Transaction, user: User, device: Device) -> Tokens:
    opened = await sessions.open_session(db, user.id, *device)
    note(db, "logged in", user=user.id, session=opened.actor.session_id)
    return SessionStrategy().tokens(opened)


async def verify_phone(db: Transaction, actor: Actor, data: CodeUse) -> None:
    """Mark the actor's number as verified. Raises BadCode, or NotAuthenticated if it is not the actor's number."""
    user = await db.get(User, actor.id)
    if user is None or user.phone != data.phone:
        raise NotAuthenticated("Send the access token of the account that has this number.")
    await change_user(db, await _use_code(db, data, Purpose.VERIFY), {"is_verified": True})


async def reset_password(db: Transaction, data: PasswordReset) -> None:
    """Set a password with a code; all sessions of the user end. Raises BadCode."""
    hashed = await hash_password(data.new_password)
    await _set_password(db, await _use_code(db, data, Purpose.RESET), hashed)


async def _use_code(db: Transaction, data: CodeUse, purpose: Purpose) -> User:
    """The user, locked, of a number that was proven. Raises BadCode."""
    await codes.use_code(db, data.phone, purpose, data.code)
    if purpose is Purpose.LOGIN:
        await UserManager(db).insert_user({"phone": data.phone, "name": DEFAULT_NAME})
    user = await lock_user(db, col(User.phone) == data.phone)
    if user is None or not user.is_active:
        raise BadCode
    return user


async def _set_password(db: Transaction, user: User, hashed: str | None) -> None:
    """Replace or clear the password of a user who has proven the number, and end all sessions."""
    note(db, "password changed", user=user.id)
    await change_user(db, user, {"hashed_password": hashed, "is_verified": True})
    await sessions.revoke_sessions(db, user.id)


async def change_password(db: Transaction, actor: Actor, data: PasswordChange) -> None:
    """Set a new password; the user's other sessions end. Raises BadCredentials, SessionRevoked."""
    hashed = await hash_password(data.new_password)
    is_meant = col(User.id) == actor.id
    user = await lock_user(db, is_meant)
    if user is None or user.hashed_password is not None:
        user = await UserManager(db).check_password(is_meant, data.current_password or "")
    if user is None:
        raise BadCredentials
    # A first login by code may have ended this session and cleared the password after the request was authenticated.
    await sessions.check_session(db, actor)
    note(db, "password changed")
    await change_user(db, user, {"hashed_password": hashed})
    await sessions.revoke_sessions(db, actor.id, keep=actor.session_id)


async def authenticate(db: Db, token: str | None) -> tuple[Actor, UUID | None]:
    """The actor of a token and the active chat of the session, for both transports.

    Raises NotAuthenticated, TokenExpired, SessionRevoked.
    """
    if token is None:
        raise NotAuthenticated
    actor = SessionStrategy().decode(token)
    bind(user=actor.id, session=actor.session_id)
    active_chat_id = await sessions.check_session(db, actor)
    log_info("authenticated")
    return actor, active_chat_id
