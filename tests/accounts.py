"""A phone number and all operations on it that need no login, for tests of credentials."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Self
from uuid import UUID, uuid4

import httpx
import jwt
from sqlalchemy import text
from sqlmodel import col, update

from chat_app import auth
from chat_app.crud import codes
from chat_app.database import Database
from chat_app.models import Code
from chat_app.models.codes import CodeRequest, Purpose
from tests.clients import Answer, Person, http_answer

PASSWORD = "the first password"


class Account:
    """One number, used from one address. Its codes are read from the database, since there is no phone."""

    def __init__(self, http: httpx.AsyncClient, database: Database, phone: str) -> None:
        self.http, self.database, self.phone = http, database, phone

    @classmethod
    @asynccontextmanager
    async def at(
        cls, base: str, database: Database, *, address: str = "127.0.0.1", phone: str | None = None
    ) -> AsyncIterator[Self]:
        """A new or given number, used from a loopback address."""
        transport = httpx.AsyncHTTPTransport(local_address=address, verify=False)
        async with httpx.AsyncClient(base_url=f"{base}/api/v1", transport=transport, timeout=60) as http:
            yield cls(http, database, phone or f"+7926{uuid4().int % 10**7:07d}")

    async def register(self, password: str = PASSWORD, **more: str) -> Answer:
        return await self.post("register", {"phone": self.phone, "password": password, **more})

    async def log_in(self, password: str = PASSWORD) -> Answer:
        return http_answer(await self.http.post("/auth/login", data={"username": self.phone, "password": password}))

    async def registered(self) -> dict[str, Any]:
        """Register and log in. Returns the tokens."""
        assert (await self.register()).ok
        tokens: dict[str, Any] = (await self.log_in()).data
        return tokens

    async def post(self, path: str, body: dict[str, Any], token: str | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return http_answer(await self.http.post(f"/auth/{path}", json=body, headers=headers))

    async def refresh(self, tokens: dict[str, Any]) -> Answer:
        return await self.post("refresh", {"refresh_token": tokens["refresh_token"]})

    async def change_password(self, tokens: dict[str, Any], new: str, current: str | None = PASSWORD) -> Answer:
        body = {"new_password": new} | ({} if current is None else {"current_password": current})
        return await self.post("password", body, tokens["access_token"])

    async def me(self, tokens: dict[str, Any]) -> Answer:
        headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        return http_answer(await self.http.get("/users/me", headers=headers))

    async def code(self, purpose: str) -> str:
        """A new code for this number, also right after the last one."""
        async with self.database.transaction() as db:
            older = {"sent_at": Code.sent_at - timedelta(minutes=2)}
            await db.exec(update(Code).where(col(Code.phone) == self.phone).values(**older))
            digits = await codes.request_code(db, CodeRequest(phone=self.phone, purpose=Purpose(purpose)))
        assert digits
        return digits

    async def use(self, what: str, code: str, token: str | None = None, **more: str) -> Answer:
        return await self.post(f"codes/{what}", {"phone": self.phone, "code": code, **more}, token)

    async def execute(self, statement: str) -> Any:
        """Run SQL as an operator does. `:phone` is this number."""
        async with self.database.engine.begin() as connection:
            result = await connection.execute(text(statement), {"phone": self.phone})
            return result.all() if result.returns_rows else result.rowcount

    def person(self, tokens: dict[str, Any], name: str = "Somebody") -> Person:
        claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
        base = str(self.http.base_url).removesuffix("/api/v1/")
        return Person(base, UUID(claims["sub"]), UUID(claims["sid"]), tokens["access_token"], name)


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 10**6:06}"


@contextmanager
def hashing_held() -> Iterator[None]:
    """In this block no password is hashed, and requests that need it wait."""
    release = threading.Event()
    auth._hashing.submit(release.wait)
    try:
        yield
    finally:
        release.set()


def waiting_for_hashing() -> int:
    return auth._hashing._work_queue.qsize()
