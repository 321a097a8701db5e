"""Rate limits over both transports, and the settings that a production start refuses."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr, ValidationError
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from chat_app import auth, limits
from chat_app.database import Database
from chat_app.errors import RateLimited
from chat_app.limits import Limits, Rate, network_of
from chat_app.main import create_app
from chat_app.settings import Settings
from tests.accounts import PASSWORD, Account, wrong
from tests.clients import Person, Transport, http_answer
from tests.media.pictures import corners, encoded
from tests.service import MakePerson, Service

AVATAR = "/api/v1/users/me/avatar"


@pytest.fixture
def limited(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service counts operations and allows few. Its clock is stopped, so no span ends during a test."""
    monkeypatch.setattr(limits, "time", lambda: 1e9)
    monkeypatch.setitem(limits.RATES["user"], "send_message", Rate(3, 60))
    monkeypatch.setitem(limits.RATES["address"], "login", Rate(4, 60))
    monkeypatch.setitem(limits.RATES["pair"], "login", Rate(2, 60))
    # One object counts for both transports.
    monkeypatch.setattr(service.live.limits, "enabled", True)
    monkeypatch.setattr(service.live.limits, "_counts", {})


@pytest.mark.usefixtures("limited")
async def test_one_user_has_one_count_for_both_transports(make_person: MakePerson, transport: Transport) -> None:
    anna, boris = await make_person("Anna", connected=True), await make_person("Boris", connected=True)
    chat = await transport.do(anna, "open_private_chat", user_id=boris.id)
    for _ in range(3):
        await transport.send(anna, chat["id"])
    ack = await anna.socket.client.call("send_message", {})
    assert (ack["error"]["code"], ack["error"]["status"]) == ("rate_limited", 429)
    assert 1 <= ack["error"]["retry_after"] <= 60
    response = await anna.http.post(f"/api/v1/chats/{chat['id']}/messages", json={})
    assert http_answer(response).code == "rate_limited"
    assert int(response.headers["retry-after"]) == response.json()["retry_after"]
    await transport.send(boris, chat["id"], "others are not limited")
    assert (await transport.do(anna, "get_chat", chat_id=chat["id"]))["message_count"] == 4, (
        "other commands are not limited"
    )


@pytest.mark.usefixtures("limited")
async def test_logins_are_counted_by_number_in_any_notation_and_by_address(service: Service) -> None:
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
        assert await log_in("+79165550003") == "rate_limited", "the limit of the address is reached"


@pytest.fixture
def counting(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service counts operations, starting at zero. All tests use loopback addresses, so an address may do much.

    Its clock is stopped, so no span ends during a test.
    """
    monkeypatch.setattr(limits, "time", lambda: 1e9)
    for action in ("login", "login_with_code", "verify_phone", "reset_password", "refresh"):
        monkeypatch.setitem(limits.RATES["address"], action, Rate(1000, 60))
    monkeypatch.setattr(service.live.limits, "enabled", True)
    monkeypatch.setattr(service.live.limits, "_counts", {})


At = Callable[[str], Awaitable[Account]]
OWNER, ATTACKER = "127.0.0.1", "127.0.0.2"


@pytest.fixture
async def at(service: Service, database: Database) -> AsyncIterator[At]:
    """`await at(address)`: one registered number, used from this address."""
    phone = f"+7926{uuid4().int % 10**7:07d}"
    async with AsyncExitStack() as stack:

        async def reach(address: str) -> Account:
            return await stack.enter_async_context(Account.at(service.base, database, address=address, phone=phone))

        assert (await (await reach("127.0.0.99")).register()).ok
        yield reach


@pytest.mark.usefixtures("counting")
class TestGuessing:
    """Wrong guesses are counted by number and address, and for all addresses together. The owner is not locked out."""

    async def test_an_address_can_guess_a_password_five_times(self, at: At) -> None:
        owner, attacker = await at(OWNER), await at(ATTACKER)
        codes = [(await attacker.log_in("a guess")).code for _ in range(25)]
        assert codes == ["bad_credentials"] * 5 + ["rate_limited"] * 20
        assert (await attacker.log_in()).code == "rate_limited", (
            "the right password gets the same answer as a wrong one"
        )
        assert (await owner.log_in()).ok
        async with Account.at(str(attacker.http.base_url)[: -len("/api/v1/")], attacker.database) as other:
            assert (await other.log_in("a guess")).code == "bad_credentials", "other numbers are not limited"

    async def test_simultaneous_guesses_do_not_exceed_the_limit(self, at: At) -> None:
        attacker = await at(ATTACKER)
        answers = await asyncio.gather(*(attacker.log_in("a guess") for _ in range(30)))
        assert sorted(str(answer.code) for answer in answers) == ["bad_credentials"] * 5 + ["rate_limited"] * 25

    async def test_right_passwords_do_not_count(self, at: At) -> None:
        owner = await at(OWNER)
        for _ in range(4):
            assert (await owner.log_in("a typing error")).code == "bad_credentials"
        assert all([(await owner.log_in()).ok for _ in range(15)])
        assert {answer.code for answer in await asyncio.gather(*(owner.log_in() for _ in range(15)))} == {None}
        assert (await owner.log_in("a typing error")).code == "bad_credentials"
        assert (await owner.log_in("a typing error")).code == "rate_limited"

    async def test_attempts_that_could_not_be_checked_do_not_count(
        self, at: At, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        owner = await at(OWNER)
        monkeypatch.setattr(auth, "MOST_WAITING", 0)
        assert {(await owner.log_in()).code for _ in range(8)} == {"unavailable"}
        monkeypatch.undo()
        monkeypatch.setattr(service.live.limits, "enabled", True)
        assert (await owner.log_in()).ok

    async def test_an_address_where_the_owner_is_logged_in_is_exempt_from_the_common_limit(
        self, at: At, monkeypatch: pytest.MonkeyPatch, service: Service
    ) -> None:
        monkeypatch.setitem(limits.RATES["phone"], "login", Rate(7, 3600))
        monkeypatch.setattr(service.live.limits, "_counts", {})
        owner, elsewhere = await at(OWNER), await at("127.0.0.7")
        tokens = (await owner.log_in()).data
        attackers = [await at(f"127.0.1.{number}") for number in range(1, 4)]
        answers = [(await each.log_in("a guess")).code for each in attackers for _ in range(4)]
        assert answers == ["bad_credentials"] * 7 + ["rate_limited"] * 5
        assert (await elsewhere.log_in()).code == "rate_limited"
        again = await owner.log_in()
        assert again.ok, "the owner is logged in at this address"
        guesses = [(await owner.log_in("a guess")).code for _ in range(6)]
        assert guesses == ["bad_credentials"] * 5 + ["rate_limited"], "the limit of the address applies to it too"
        for session in (tokens, again.data):
            assert (await owner.post("logout", {}, session["access_token"])).ok
        monkeypatch.setattr(service.live.limits, "_counts", {})
        for each in attackers:
            for _ in range(3):
                await each.log_in("a guess")
        assert (await owner.log_in()).code == "rate_limited", "the owner is no longer logged in at this address"

    @pytest.mark.parametrize("what", ["login", "reset", "verify"])
    async def test_an_address_can_guess_a_code_five_times(self, what: str, at: At) -> None:
        owner, attacker = await at(OWNER), await at(ATTACKER)
        token = (await owner.log_in()).data["access_token"] if what == "verify" else None
        more = {"new_password": PASSWORD} if what == "reset" else {}
        code = await owner.code(what)
        codes = [(await attacker.use(what, wrong(code), token, **more)).code for _ in range(25)]
        assert codes == ["bad_code"] * 5 + ["rate_limited"] * 20
        code = await owner.code(what)
        assert (await attacker.use(what, code, token, **more)).code == "rate_limited"
        assert (await owner.use(what, code, token, **more)).ok
        for _ in range(8):
            code = await owner.code(what)
            assert (await owner.use(what, code, token, **more)).ok, "right codes do not count"

    async def test_others_cannot_use_up_the_codes_of_an_owner(
        self, at: At, monkeypatch: pytest.MonkeyPatch, service: Service
    ) -> None:
        monkeypatch.setitem(limits.RATES["phone"], "request_code", Rate(7, 3600))
        monkeypatch.setattr(service.live.limits, "_counts", {})
        owner, elsewhere = await at(OWNER), await at("127.0.0.7")
        attackers = [await at(ATTACKER), await at("127.0.0.3")]
        assert (await owner.log_in()).ok

        async def request(account: Account) -> str | None:
            await account.execute("UPDATE code SET sent_at = sent_at - interval '1 hour' WHERE phone = :phone")
            return (await account.post("codes", {"phone": account.phone, "purpose": "login"})).code

        codes = [[await request(attacker) for _ in range(6)] for attacker in attackers]
        assert codes == [[None] * 5 + ["rate_limited"], [None] * 2 + ["rate_limited"] * 4]
        assert await request(elsewhere) == "rate_limited"
        assert [await request(owner) for _ in range(6)] == [None] * 5 + ["rate_limited"]

    async def test_an_unknown_number_gets_the_same_answers(self, service: Service, database: Database) -> None:
        async with Account.at(service.base, database, address=ATTACKER) as nobody:
            codes = [(await nobody.log_in("a guess")).code for _ in range(7)]
        assert codes == ["bad_credentials"] * 5 + ["rate_limited"] * 2

    async def test_addresses_are_stored_as_hashes_that_differ_by_user(self, at: At, service: Service) -> None:
        owner = await at(OWNER)
        await owner.log_in()
        async with Account.at(service.base, owner.database, address=OWNER) as other:
            await other.registered()
            query = 'SELECT address_hash FROM session JOIN "user" ON "user".id = user_id WHERE phone = :phone'
            (first,), (second,) = [(await account.execute(query))[0] for account in (owner, other)]
        assert len(first) == len(second) == 32 and first != second


def test_an_ipv6_address_is_counted_by_its_network() -> None:
    assert network_of("2001:db8:1:2:3:4:5:6") == network_of("2001:db8:1:2::9") != network_of("2001:db8:1:3::9")
    assert network_of("::ffff:203.0.113.5") == network_of("203.0.113.5") == "203.0.113.5"
    assert network_of("fe80::1%eth0") == network_of("fe80::2%eth0")
    assert network_of(None) is None and network_of("a socket") == "a socket"


async def test_simultaneous_hits_are_counted_exactly() -> None:
    counting = Limits(enabled=True)

    async def hit() -> bool:
        try:
            counting.check("register", address="203.0.113.5")
        except RateLimited:
            return False
        return True

    results = await asyncio.gather(*(hit() for _ in range(100)))
    assert sum(results) == limits.RATES["address"]["register"].times


async def test_a_name_and_a_picture_change_10_times_an_hour(
    service: Service, make_person: MakePerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna, boris = await make_person("Anna"), await make_person("Boris")
    monkeypatch.setattr(limits, "time", lambda: 1e9)
    monkeypatch.setattr(service.live.limits, "enabled", True)
    monkeypatch.setattr(service.live.limits, "_counts", {})

    async def update(person: Person, **fields: str) -> str | None:
        return http_answer(await person.http.patch("/api/v1/users/me", json=fields)).code

    def picture(width: int) -> dict[str, str]:
        return {"image": base64.b64encode(encoded(corners((width, 20)), "PNG")).decode()}

    assert [await update(anna, name=f"Anna {number}") for number in range(8)] == [None] * 8
    for _ in range(3):
        assert await update(anna, name="Anna 7", bio="the same name is no change") is None
    assert (await anna.http.put(AVATAR, json=picture(30))).status_code == 200
    assert (await anna.http.put(AVATAR, json=picture(30))).status_code == 200, "the same picture is no change"
    assert (await anna.http.delete(AVATAR)).status_code == 204
    assert (await anna.http.delete(AVATAR)).status_code == 204, "there is none any more"
    assert await update(anna, name="Anna 8") == "rate_limited"
    assert http_answer(await anna.http.put(AVATAR, json=picture(40))).code == "rate_limited"
    assert await update(anna, bio="not limited") is None
    me = (await anna.http.get("/api/v1/users/me")).json()
    assert (me["name"], me["avatar"], me["bio"]) == ("Anna 7", None, "not limited")
    assert await update(boris, name="Boris 1") is None
    monkeypatch.setattr(limits, "time", lambda: 1e9 + 3600)
    assert await update(anna, name="Anna 8") is None


def test_every_limit_names_a_route_or_command(openapi: dict[str, dict[str, dict[str, dict[str, str]]]]) -> None:
    operations = {method["operationId"] for path in openapi["paths"].values() for method in path.values()}
    named = {action for rates in limits.RATES.values() for action in rates} - {"any", "connect"}
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
        ({"access_seconds": 900}, "CHAT_ACCESS_SECONDS"),
        ({"trusted_proxies": "*"}, "CHAT_TRUSTED_PROXIES"),
        ({"trusted_proxies": "10.84.71.0/24, 10.0.0.0/15"}, "CHAT_TRUSTED_PROXIES"),
        ({"trusted_proxies": "0.0.0.0/0"}, "CHAT_TRUSTED_PROXIES"),
        ({"trusted_proxies": "fd00:1:2::/47"}, "CHAT_TRUSTED_PROXIES"),
    ],
)
def test_a_production_start_refuses_unsafe_settings(changes: dict[str, object], complaint: str) -> None:
    assert production().unsafe() == []
    assert any(complaint in text for text in production(**changes).unsafe())


def test_production_trusts_the_networks_of_one_installation() -> None:
    proxies = "10.84.7.1, 10.84.0.0/16, fd00:1:2::/48, ::1"
    assert production(trusted_proxies=proxies).unsafe() == []
    assert Settings(trusted_proxies="*").unsafe() == []


@pytest.mark.parametrize("proxy", ["proxy.example.com", "10.84.7.1/16", "10.84.0.0/33", "10.84.7"])
def test_a_proxy_that_no_address_matches_is_refused_at_the_start(proxy: str) -> None:
    with pytest.raises(ValidationError, match="trusted_proxies"):
        Settings(trusted_proxies=f"10.84.7.1,{proxy}")


def test_forwarded_addresses_are_used_only_behind_a_trusted_proxy(service_settings: Settings, data_dir: Path) -> None:
    assert not isinstance(create_app(service_settings), ProxyHeadersMiddleware)
    trusting = service_settings.model_copy(update={"trusted_proxies": ["10.0.0.0/8"]})
    assert isinstance(create_app(trusting), ProxyHeadersMiddleware)


async def test_answers_have_safe_headers_and_are_readable_for_configured_origins_only(service: Service) -> None:
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
