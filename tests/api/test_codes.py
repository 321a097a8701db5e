"""One-time codes: requests, delivery, use and wrong guesses."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import httpx
import pytest
from prometheus_client import REGISTRY
from sqlmodel import select

from chat_app import sms
from chat_app.crud import codes
from chat_app.database import Database
from chat_app.models import Code
from chat_app.settings import Settings
from chat_app.sms import CodeSender
from tests.clients import DEADLINE, Answer, http_answer, until
from tests.service import Service


class Gateway:
    """A real HTTP server in the place of the SMS gateway. The next `fails` requests fail."""

    def __init__(self) -> None:
        self.sent: list[dict[str, str]] = []
        self.fails = 0
        self.arrived = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
        body = json.loads(await reader.readexactly(length))
        if self.fails:
            self.fails -= 1
            writer.write(b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        else:
            self.sent.append(body)
            self.arrived.set()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def code_for(self, phone: str) -> str:
        """The newest code that was sent to this number."""
        async with asyncio.timeout(DEADLINE):
            while not any(sent["phone"] == phone for sent in self.sent):
                self.arrived.clear()
                await self.arrived.wait()
        return [sent["code"] for sent in self.sent if sent["phone"] == phone][-1]


@pytest.fixture
async def gateway(service: Service, service_settings: Settings) -> AsyncIterator[Gateway]:
    gateway = Gateway()
    server = await asyncio.start_server(gateway.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    former = service.node.codes
    settings = service_settings.model_copy(update={"sms_url": _secret(f"http://127.0.0.1:{port}/send")})
    service.node.codes = CodeSender(settings)
    yield gateway
    await service.node.codes.close()
    service.node.codes = former
    server.close()
    await server.wait_closed()


@pytest.fixture
async def http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{service.base}/api/v1", timeout=20) as client:
        yield client


def _secret(value: str) -> object:
    from pydantic import SecretStr

    return SecretStr(value)


def new_phone() -> str:
    return f"+7926{uuid4().int % 10**7:07d}"


async def request_code(http: httpx.AsyncClient, phone: str, purpose: str) -> httpx.Response:
    return await http.post("/auth/codes", json={"phone": phone, "purpose": purpose})


async def use_code(http: httpx.AsyncClient, what: str, phone: str, code: str, **more: str) -> Answer:
    return http_answer(await http.post(f"/auth/codes/{what}", json={"phone": phone, "code": code, **more}))


async def register(http: httpx.AsyncClient, phone: str) -> None:
    answer = await http.post("/auth/register", json={"phone": phone, "password": "first password"})
    assert answer.status_code == 201


async def log_in(http: httpx.AsyncClient, phone: str, password: str) -> Answer:
    return http_answer(await http.post("/auth/login", data={"username": phone, "password": password}))


async def test_a_new_number_becomes_a_verified_user_by_logging_in_with_a_code(
    http: httpx.AsyncClient, gateway: Gateway
) -> None:
    phone = new_phone()
    requested = await request_code(http, phone, "login")
    assert (requested.status_code, requested.json()) == (202, {"expires_in": 300, "resend_in": 60})
    code = await gateway.code_for(phone)
    assert re.fullmatch(r"\d{6}", code)

    tokens = await use_code(http, "login", phone, code)
    me = await http.get("/users/me", headers={"Authorization": f"Bearer {tokens.data['access_token']}"})
    assert (me.json()["phone"], me.json()["is_verified"]) == (phone, True)
    assert (await use_code(http, "login", phone, code)).code == "bad_code", "a code is good for one use"


async def test_simultaneous_uses_of_one_code_open_one_session(http: httpx.AsyncClient, gateway: Gateway) -> None:
    phone = new_phone()
    await request_code(http, phone, "login")
    code = await gateway.code_for(phone)
    answers = await asyncio.gather(*(use_code(http, "login", phone, code) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [200] + [400] * 7


async def test_known_and_unknown_numbers_get_the_same_answer_and_only_the_known_a_code(
    http: httpx.AsyncClient, gateway: Gateway
) -> None:
    known, unknown = new_phone(), new_phone()
    await register(http, known)
    for purpose in ("verify", "reset", "delete"):
        first, second = [await request_code(http, phone, purpose) for phone in (unknown, known)]
        assert (first.status_code, first.content) == (second.status_code, second.content)
        again = [await request_code(http, phone, purpose) for phone in (unknown, known)]
        assert [answer.status_code for answer in again] == [429, 429]
        assert all(1 <= answer.json()["retry_after"] <= 60 for answer in again)
        wrong = [await use_code(http, "reset", phone, "000000", new_password="x" * 8) for phone in (unknown, known)]
        assert wrong[0] == wrong[1] == Answer(400, None, "bad_code")
    await gateway.code_for(known)
    assert {sent["phone"] for sent in gateway.sent} == {known}


@pytest.mark.parametrize("purpose", ["login", "change"])
async def test_an_unknown_number_gets_a_code_for_login_and_change(
    purpose: str, http: httpx.AsyncClient, gateway: Gateway
) -> None:
    phone = new_phone()
    await request_code(http, phone, purpose)
    assert await gateway.code_for(phone)


async def test_five_wrong_guesses_void_a_code(http: httpx.AsyncClient, gateway: Gateway) -> None:
    phone = new_phone()
    await request_code(http, phone, "login")
    code = await gateway.code_for(phone)
    wrong = f"{(int(code) + 1) % 10**6:06}"
    answers = await asyncio.gather(*(use_code(http, "login", phone, wrong) for _ in range(5)))
    assert {answer.code for answer in answers} == {"bad_code"}
    assert (await use_code(http, "login", phone, code)).code == "bad_code", "the right code comes too late"


async def test_a_code_is_void_after_five_minutes_and_for_another_purpose(
    http: httpx.AsyncClient, gateway: Gateway, database: Database
) -> None:
    phone = new_phone()
    await register(http, phone)
    await request_code(http, phone, "reset")
    code = await gateway.code_for(phone)
    assert (await use_code(http, "login", phone, code)).code == "bad_code"
    async with database.transaction() as db:
        row = (await db.exec(select(Code).where(Code.phone == phone, Code.purpose == "reset"))).one()
        assert code.encode() not in row.hash
        row.expires_at -= codes.LIFETIME + timedelta(seconds=1)
    assert (await use_code(http, "reset", phone, code, new_password="x" * 8)).code == "bad_code"


async def test_a_code_sent_in_the_future_does_not_block_the_next_one(
    http: httpx.AsyncClient, database: Database
) -> None:
    phone = new_phone()
    assert (await request_code(http, phone, "login")).status_code == 202
    async with database.transaction() as db:
        (await db.exec(select(Code).where(Code.phone == phone))).one().sent_at += timedelta(days=1)
    assert (await request_code(http, phone, "login")).status_code == 202
    assert (await request_code(http, phone, "login")).status_code == 429


async def test_a_reset_password_replaces_the_old_one_and_ends_all_sessions(
    http: httpx.AsyncClient, gateway: Gateway
) -> None:
    phone = new_phone()
    await register(http, phone)
    session = (await log_in(http, phone, "first password")).data
    await request_code(http, phone, "reset")
    code = await gateway.code_for(phone)
    assert (await use_code(http, "reset", phone, code, new_password="second password")).status == 204
    assert (await log_in(http, phone, "first password")).code == "bad_credentials"
    assert (await log_in(http, phone, "second password")).ok
    me = await http.get("/users/me", headers={"Authorization": f"Bearer {session['access_token']}"})
    assert http_answer(me).code == "session_revoked"


async def test_a_password_change_needs_the_old_password_and_ends_the_other_sessions(http: httpx.AsyncClient) -> None:
    phone = new_phone()
    await register(http, phone)
    this, other = [(await log_in(http, phone, "first password")).data["access_token"] for _ in range(2)]

    async def change(token: str, **body: str) -> Answer:
        headers = {"Authorization": f"Bearer {token}"}
        return http_answer(await http.post("/auth/password", json=body, headers=headers))

    assert (await change(this, new_password="second password")).code == "bad_credentials"
    wrong = await change(this, current_password="something else", new_password="second password")
    assert wrong.code == "bad_credentials"
    assert (await change(this, current_password="first password", new_password="second password")).status == 204
    assert (await change(other, current_password="second password", new_password="x" * 8)).code == "session_revoked"
    assert (await change(this, current_password="second password", new_password="third password")).status == 204


async def test_a_user_without_a_password_sets_the_first_one(http: httpx.AsyncClient, gateway: Gateway) -> None:
    phone = new_phone()
    await request_code(http, phone, "login")
    tokens = (await use_code(http, "login", phone, await gateway.code_for(phone))).data
    assert (await log_in(http, phone, "first password")).code == "bad_credentials"
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    answer = await http.post("/auth/password", json={"new_password": "first password"}, headers=headers)
    assert answer.status_code == 204
    assert (await log_in(http, phone, "first password")).ok


async def test_a_failed_request_to_the_gateway_is_repeated(http: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.fails = 1
    phone = new_phone()
    await request_code(http, phone, "login")
    assert await gateway.code_for(phone)
    assert gateway.fails == 0 and len(gateway.sent) == 1


async def test_codes_that_were_sent_or_given_up_are_counted(
    http: httpx.AsyncClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(outcome: str) -> float:
        return REGISTRY.get_sample_value("chat_sms_total", {"outcome": outcome}) or 0

    monkeypatch.setattr(sms, "TRIES", 2)
    sent, failed = count("sent"), count("failed")
    gateway.fails = 2
    await request_code(http, new_phone(), "login")
    await until(lambda: count("failed") == failed + 1)
    assert count("sent") == sent
    await request_code(http, new_phone(), "login")
    await until(lambda: count("sent") == sent + 1)
    assert count("failed") == failed + 1


async def test_unverified_numbers_are_refused_where_verification_is_required(
    http: httpx.AsyncClient, gateway: Gateway, service_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_settings, "phone_verification", "required")
    phone = new_phone()
    await register(http, phone)
    assert (await log_in(http, phone, "first password")).code == "phone_not_verified"
    await request_code(http, phone, "login")
    assert (await use_code(http, "login", phone, await gateway.code_for(phone), password="second password")).ok
    assert (await log_in(http, phone, "first password")).code == "bad_credentials"
    assert (await log_in(http, phone, "second password")).ok


async def test_codes_never_go_to_the_log_in_production(service_settings: Settings) -> None:
    sender = CodeSender(service_settings.model_copy(update={"env": "production"}))
    from chat_app.errors import Unavailable

    with pytest.raises(Unavailable):
        sender.check()
    await sender.close()
