"""How often who may do what, through both doors, and what a production start refuses."""

import asyncio
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from chat_app import limits
from chat_app.errors import RateLimited
from chat_app.limits import Limits, Rate
from chat_app.main import create_app
from chat_app.settings import Settings
from tests.clients import Door, http_answer
from tests.service import MakePerson, Service


@pytest.fixture
def limited(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service counts, and few times are many."""
    monkeypatch.setitem(limits.PER_USER, "send_message", Rate(3, 60))
    monkeypatch.setitem(limits.PER_ADDRESS, "login", Rate(4, 60))
    monkeypatch.setitem(limits.PER_PHONE, "login", Rate(2, 60))
    # One object counts for both doors.
    monkeypatch.setattr(service.live.limits, "enabled", True)
    monkeypatch.setattr(service.live.limits, "_windows", Limits(enabled=True)._windows)


@pytest.mark.usefixtures("limited")
async def test_one_user_has_one_count_for_both_doors(make_person: MakePerson, door: Door) -> None:
    anna, boris = await make_person("Anna", connected=True), await make_person("Boris", connected=True)
    chat = await door.do(anna, "open_private_chat", user_id=boris.id)
    for _ in range(3):
        await door.send(anna, chat["id"])
    ack = await anna.socket.client.call("send_message", {})
    assert (ack["error"]["code"], ack["error"]["status"]) == ("rate_limited", 429)
    assert 1 <= ack["error"]["retry_after"] <= 60
    response = await anna.http.post(f"/api/v1/chats/{chat['id']}/messages", json={})
    assert http_answer(response).code == "rate_limited"
    assert int(response.headers["retry-after"]) == response.json()["retry_after"]
    await door.send(boris, chat["id"], "others are not concerned")
    assert (await door.do(anna, "get_chat", chat_id=chat["id"]))["message_count"] == 4, "nor other commands"


@pytest.mark.usefixtures("limited")
async def test_logins_are_counted_by_number_however_it_is_written_and_by_address(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.base) as http:

        async def log_in(phone: str) -> str | None:
            form = {"username": phone, "password": "wrong password"}
            return http_answer(await http.post("/api/v1/auth/login", data=form)).code

        assert [await log_in(phone) for phone in ("+79165550001", "8 (916) 555-00-01", "+7 916 555 00 01")] == [
            "bad_credentials",
            "bad_credentials",
            "rate_limited",
        ]
        assert await log_in("+79165550002") == "bad_credentials"
        assert await log_in("+79165550003") == "rate_limited", "the address has used up its own"


async def test_parallel_hits_are_counted_exactly() -> None:
    counting = Limits(enabled=True)

    async def hit() -> bool:
        try:
            counting.check("register", address="203.0.113.5")
        except RateLimited:
            return False
        return True

    results = await asyncio.gather(*(hit() for _ in range(100)))
    assert sum(results) == limits.PER_ADDRESS["register"].times


def test_every_limit_names_a_route_or_command(openapi: dict[str, dict[str, dict[str, dict[str, str]]]]) -> None:
    operations = {method["operationId"] for path in openapi["paths"].values() for method in path.values()}
    named = {*limits.PER_USER, *limits.PER_ADDRESS, *limits.PER_PHONE, *limits.IN_ALL} - {"any", "connect"}
    assert named <= operations, named - operations


def production(**changes: object) -> Settings:
    good = {
        "env": "production",
        "secret": SecretStr("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"),
        "database_url": SecretStr("postgresql://chat@db/chat"),
        "cors_origins": ["https://chat.example.com"],
    }
    return Settings.model_validate(good | changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"secret": None}, "CHAT_SECRET"),
        ({"secret": SecretStr("short")}, "CHAT_SECRET"),
        ({"secret": SecretStr("ab" * 32)}, "CHAT_SECRET"),
        ({"cors_origins": ["*"]}, "CHAT_CORS_ORIGINS"),
        ({"log_level": "DEBUG"}, "CHAT_LOG_LEVEL"),
        ({"database_url": None}, "CHAT_DATABASE_URL"),
    ],
)
def test_a_production_start_refuses_what_is_unsafe(changes: dict[str, object], complaint: str) -> None:
    assert production().unsafe() == []
    assert any(complaint in text for text in production(**changes).unsafe())


def test_the_address_behind_a_proxy_counts_only_when_the_proxy_is_trusted(
    service_settings: Settings, data_dir: Path
) -> None:
    assert not isinstance(create_app(service_settings), ProxyHeadersMiddleware)
    trusting = service_settings.model_copy(update={"trusted_proxies": ["10.0.0.0/8"]})
    assert isinstance(create_app(trusting), ProxyHeadersMiddleware)


async def test_answers_carry_safe_headers_and_only_named_origins_may_read_them(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.base) as http:
        answer = await http.get("/healthz", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        page = await http.get("/healthz", headers={"Origin": "http://localhost:5173"})
        assert page.headers["access-control-allow-origin"] == "http://localhost:5173"
        handshake = "/socket.io/?EIO=4&transport=polling"
        assert (await http.get(handshake, headers={"Origin": "https://evil.example"})).status_code == 400
        assert (await http.get(handshake, headers={"Origin": "http://localhost:5173"})).status_code == 200
