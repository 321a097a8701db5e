"""Registration, login, tokens, refresh and logout."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
import socketio
from sqlmodel import col, update

from chat_app.crud import sessions
from chat_app.database import Database
from chat_app.models import Session
from chat_app.settings import get_settings
from tests.clients import DEADLINE, Answer, Person, http_answer
from tests.raw import RawSocket
from tests.service import MakePerson, Service

API = "/api/v1"
PASSWORD = "correct horse"
PHONES: Iterator[int] = count(1)


def new_phone() -> str:
    """A number that no user has."""
    return f"+7926{next(PHONES):07d}"


@pytest.fixture
async def visitor(service: Service) -> Any:
    """A client without a token."""
    async with httpx.AsyncClient(base_url=service.base + API, verify=False) as client:
        yield client


Tokens = dict[str, Any]


async def register(client: httpx.AsyncClient, phone: str, password: str = PASSWORD, **more: object) -> Answer:
    return http_answer(await client.post("/auth/register", json={"phone": phone, "password": password, **more}))


async def log_in(client: httpx.AsyncClient, phone: str, password: str = PASSWORD) -> Answer:
    return http_answer(await client.post("/auth/login", data={"username": phone, "password": password}))


async def refresh(client: httpx.AsyncClient, token: object) -> Answer:
    return http_answer(await client.post("/auth/refresh", json={"refresh_token": token}))


async def me(client: httpx.AsyncClient, access_token: str) -> Answer:
    headers = {"Authorization": f"Bearer {access_token}"}
    return http_answer(await client.get("/users/me", headers=headers))


@pytest.fixture
async def logged_in(visitor: httpx.AsyncClient) -> Tokens:
    """A new user's first tokens, with the phone."""
    phone = new_phone()
    assert (await register(visitor, phone)).ok
    return (await log_in(visitor, phone)).data | {"phone": phone}


INVALID: list[dict[str, object]] = [
    {"phone": ""},
    {"phone": "abc"},
    {"phone": "+7916"},
    {"phone": "+7916123456789012"},
    {"phone": None},
    {"phone": 79161234567},
    {"phone": "\x00"},
    {"password": "1234567"},
    {"password": "x" * 129},
    {"password": None},
    {"password": "nul\x00nul\x00"},
    {"name": ""},
    {"name": "x" * 101},
    {"name": None},
    {"is_verified": True},
    {"is_superuser": True},
    {"hashed_password": "x"},
]


class TestRegistration:
    async def test_a_phone_and_a_password_register_a_user(self, visitor: httpx.AsyncClient) -> None:
        phone = new_phone()
        answer = await register(visitor, phone)
        assert answer.status == 201
        public = {"id", "name", "avatar", "username", "bio", "extra", "last_seen_at", "online"}
        assert set(answer.data) == public | {"phone", "is_verified", "has_password", "created_at"}
        assert (answer.data["phone"], answer.data["name"]) == (phone, "New user")
        assert (answer.data["username"], answer.data["avatar"], answer.data["is_verified"]) == (None, None, False)
        tokens = (await log_in(visitor, phone)).data
        assert (await me(visitor, tokens["access_token"])).data == answer.data

    async def test_registration_takes_a_name(self, visitor: httpx.AsyncClient) -> None:
        assert (await register(visitor, new_phone(), name="Анна")).data["name"] == "Анна"

    @pytest.mark.parametrize(
        "written",
        [
            "+7{} {}-{}-{}",
            "8{}{}{}{}",
            "8 ({}) {}-{}-{}",
            "7{}{}{}{}",
            " +7 ({}) {} {} {} ",
            "({}){}{}{}",
            "8~107{}{}{}{}",
            "tel:+7-{}-{}-{}-{}",
        ],
    )
    async def test_every_notation_of_a_number_is_the_same_user(self, visitor: httpx.AsyncClient, written: str) -> None:
        phone = new_phone()
        other = written.format(phone[2:5], phone[5:8], phone[8:10], phone[10:])
        answer = await register(visitor, other)
        assert (answer.status, answer.data["phone"]) == (201, phone)
        again = await register(visitor, phone)
        assert (again.status, again.code) == (409, "phone_taken")
        assert (await log_in(visitor, phone)).ok and (await log_in(visitor, other)).ok

    async def test_simultaneous_registrations_of_one_number_make_one_user(self, visitor: httpx.AsyncClient) -> None:
        phone = new_phone()
        written = [phone, phone.replace("+7", "8"), f"{phone[:5]} {phone[5:]}"] * 2
        answers = await asyncio.gather(*(register(visitor, one, f"password {n}") for n, one in enumerate(written)))
        assert sorted((answer.status, answer.code) for answer in answers) == [(201, None)] + [(409, "phone_taken")] * 5
        winner = next(n for n, answer in enumerate(answers) if answer.ok)
        assert (await log_in(visitor, phone, f"password {winner}")).ok

    async def test_invalid_input_is_refused(self, visitor: httpx.AsyncClient) -> None:
        valid = {"phone": new_phone(), "password": PASSWORD, "name": "Anna"}
        for fields in INVALID:
            response = await visitor.post("/auth/register", json=valid | fields)
            assert http_answer(response).code == "invalid_input"
            assert [{error["pointer"]} for error in response.json()["errors"]] == [{f"/{field}" for field in fields}]
            assert PASSWORD not in response.text
        assert (await register(visitor, **valid)).ok

    @pytest.mark.parametrize("length", [8, 128])
    async def test_passwords_have_8_to_128_characters(self, visitor: httpx.AsyncClient, length: int) -> None:
        phone = new_phone()
        assert (await register(visitor, phone, "ж" * length)).status == 201
        assert (await log_in(visitor, phone, "ж" * length)).status == 200
        assert (await log_in(visitor, phone, "ж" * (length - 1))).status == 401


class TestLogin:
    async def test_the_tokens_of_a_login_are_accepted(self, visitor: httpx.AsyncClient, logged_in: Tokens) -> None:
        assert set(logged_in) - {"phone"} == {"access_token", "refresh_token", "token_type", "expires_in"}
        assert logged_in["token_type"] == "bearer" and logged_in["expires_in"] > 0
        assert (await me(visitor, logged_in["access_token"])).data["phone"] == logged_in["phone"]

    async def test_the_life_of_access_tokens_is_a_setting(
        self, visitor: httpx.AsyncClient, logged_in: Tokens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert logged_in["expires_in"] == 900
        monkeypatch.setattr(get_settings(), "access_seconds", 5)
        renewed = (await refresh(visitor, logged_in["refresh_token"])).data
        claims = jwt.decode(renewed["access_token"], options={"verify_signature": False})
        assert (renewed["expires_in"], claims["exp"] - claims["iat"]) == (5, 5)

    async def test_a_wrong_password_and_an_unknown_phone_get_the_same_answer(
        self, visitor: httpx.AsyncClient, logged_in: Tokens
    ) -> None:
        answers = []
        for phone in (logged_in["phone"], new_phone(), "no phone", ""):
            response = await visitor.post("/auth/login", data={"username": phone or " ", "password": "wrong horse"})
            assert http_answer(response) == (401, None, "bad_credentials")
            assert response.headers["www-authenticate"] == "Bearer"
            answers.append({key: value for key, value in response.json().items() if key != "request_id"})
        assert answers[1:] == answers[:-1]

    async def test_login_takes_the_form_that_swagger_sends(self, visitor: httpx.AsyncClient, logged_in: Tokens) -> None:
        form = {"grant_type": "password", "scope": "", "username": logged_in["phone"], "password": PASSWORD}
        assert (await visitor.post("/auth/login", data=form)).status_code == 200
        assert http_answer(await visitor.post("/auth/login", json=form)).code == "invalid_input"
        assert http_answer(await visitor.post("/auth/login", data={"username": "x"})).code == "invalid_input"

    async def test_each_login_is_a_session_of_its_own(self, visitor: httpx.AsyncClient, logged_in: Tokens) -> None:
        second = (await log_in(visitor, logged_in["phone"])).data
        claims = [jwt.decode(one["access_token"], options={"verify_signature": False}) for one in (logged_in, second)]
        assert claims[0]["sub"] == claims[1]["sub"] and claims[0]["sid"] != claims[1]["sid"]


def signed(claims: dict[str, Any], **options: Any) -> str:
    """A token with these claims. A claim that is None is left out."""
    key = options.pop("key", get_settings().signing_secret.decode())
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(present, key, algorithm=options.pop("algorithm", "HS256"), **options)


# Wrong claims of a token with a valid signature. A claim that is None is left out.
WRONG_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"exp": 1}, "token_expired"),
    ({"exp": None}, "not_authenticated"),
    ({"iat": None}, "not_authenticated"),
    ({"sub": None}, "not_authenticated"),
    ({"sid": None}, "not_authenticated"),
    ({"aud": None}, "not_authenticated"),
    ({"aud": "fastapi-users:auth"}, "not_authenticated"),
    ({"sub": "x"}, "not_authenticated"),
    ({"sub": str(uuid4())}, "session_revoked"),
    ({"sid": str(uuid4())}, "session_revoked"),
    ({"sid": 7}, "not_authenticated"),
    ({"sid": "\x00"}, "not_authenticated"),
    ({"exp": "soon"}, "not_authenticated"),
    ({"nbf": 2**40}, "not_authenticated"),
]


class TestTokens:
    async def test_every_claim_is_checked(self, visitor: httpx.AsyncClient, logged_in: Tokens) -> None:
        claims = jwt.decode(logged_in["access_token"], options={"verify_signature": False})
        assert (await me(visitor, signed(claims))).ok
        for change, code in WRONG_CLAIMS:
            refused = await me(visitor, signed(claims | change))
            assert (refused.status, refused.code) == (401, code), change

    async def test_a_forged_token_is_refused(self, visitor: httpx.AsyncClient, logged_in: Tokens) -> None:
        token = logged_in["access_token"]
        claims = jwt.decode(token, options={"verify_signature": False})
        content, _, signature = token.rpartition(".")
        for forged in (
            jwt.encode(claims, None, algorithm="none"),
            signed(claims, key="x" * 32),
            signed(claims, algorithm="HS512"),
            f"{content}.",
            content,
            f"{content}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}",
            f"{token}xxxx",
            "a.b.c",
            "x",
        ):
            refused = await me(visitor, forged)
            assert (refused.status, refused.code) == (401, "not_authenticated"), forged
        for header in (None, "Bearer", f"Basic {token}", token, f"Bearer  {token} x"):
            response = await visitor.get("/users/me", headers={} if header is None else {"Authorization": header})
            assert http_answer(response) == (401, None, "not_authenticated"), header

    async def test_a_token_with_another_users_session_is_refused(
        self, visitor: httpx.AsyncClient, logged_in: Tokens
    ) -> None:
        other = new_phone()
        await register(visitor, other)
        theirs = jwt.decode((await log_in(visitor, other)).data["access_token"], options={"verify_signature": False})
        mine = jwt.decode(logged_in["access_token"], options={"verify_signature": False})
        assert (await me(visitor, signed(mine | {"sid": theirs["sid"]}))).code == "session_revoked"

    async def test_a_refresh_token_is_not_accepted_as_access_token(
        self, visitor: httpx.AsyncClient, logged_in: Tokens
    ) -> None:
        assert (await me(visitor, logged_in["refresh_token"])).code == "not_authenticated"
        assert (await refresh(visitor, logged_in["access_token"])).code == "not_authenticated"


class TestRefresh:
    async def test_a_refresh_returns_new_tokens_of_the_same_session(
        self, visitor: httpx.AsyncClient, logged_in: Tokens
    ) -> None:
        answer = await refresh(visitor, logged_in["refresh_token"])
        assert answer.status == 200 and set(answer.data) == set(logged_in) - {"phone"}
        assert answer.data["refresh_token"] != logged_in["refresh_token"]
        tokens = [one["access_token"] for one in (logged_in, answer.data)]
        sessions = {jwt.decode(token, options={"verify_signature": False})["sid"] for token in tokens}
        assert len(sessions) == 1
        assert [(await me(visitor, token)).status for token in tokens] == [200, 200]

    async def test_the_predecessor_gets_the_same_successor_again(
        self, visitor: httpx.AsyncClient, logged_in: Tokens
    ) -> None:
        first, again = [(await refresh(visitor, logged_in["refresh_token"])).data for _ in range(2)]
        assert first["refresh_token"] == again["refresh_token"]
        assert (await refresh(visitor, first["refresh_token"])).ok

    async def test_simultaneous_refreshes_get_the_same_successor(
        self, visitor: httpx.AsyncClient, logged_in: Tokens
    ) -> None:
        answers = await asyncio.gather(*(refresh(visitor, logged_in["refresh_token"]) for _ in range(8)))
        (successor,) = {answer.data["refresh_token"] for answer in answers}
        assert (await refresh(visitor, successor)).ok

    async def test_an_older_refresh_token_revokes_the_session(
        self, visitor: httpx.AsyncClient, logged_in: Tokens
    ) -> None:
        oldest = logged_in["refresh_token"]
        second = (await refresh(visitor, oldest)).data
        third = (await refresh(visitor, second["refresh_token"])).data
        reused = await refresh(visitor, oldest)
        assert (reused.status, reused.code) == (401, "refresh_reused")
        for token in (oldest, second["refresh_token"], third["refresh_token"]):
            assert (await refresh(visitor, token)).code == "session_revoked"
        assert (await me(visitor, third["access_token"])).code == "session_revoked"

    async def test_the_predecessor_is_valid_for_30_seconds_only(
        self, visitor: httpx.AsyncClient, database: Database, logged_in: Tokens
    ) -> None:
        second = (await refresh(visitor, logged_in["refresh_token"])).data
        await backdate(database, second, seconds=29)
        assert (await refresh(visitor, logged_in["refresh_token"])).data["refresh_token"] == second["refresh_token"]
        await backdate(database, second, seconds=2)
        assert (await refresh(visitor, logged_in["refresh_token"])).code == "refresh_reused"
        assert (await refresh(visitor, second["refresh_token"])).code == "session_revoked"

    async def test_using_the_predecessor_does_not_extend_its_life(
        self, visitor: httpx.AsyncClient, database: Database, logged_in: Tokens
    ) -> None:
        second = (await refresh(visitor, logged_in["refresh_token"])).data
        for _ in range(3):
            await backdate(database, second, seconds=9)
            assert (await refresh(visitor, logged_in["refresh_token"])).ok
        await backdate(database, second, seconds=9)
        assert (await refresh(visitor, logged_in["refresh_token"])).code == "refresh_reused"

    async def test_a_forged_refresh_token_revokes_nothing(self, visitor: httpx.AsyncClient, logged_in: Tokens) -> None:
        token = logged_in["refresh_token"]
        await refresh(visitor, token)
        forged = [
            token[:-1],
            token[:-4],
            token[4:],
            ("B" if token[0] == "A" else "A") + token[1:],
            token[:30] + ("B" if token[30] == "A" else "A") + token[31:],
            token[:-6] + ("BB" if token[-6:-4] == "AA" else "AA") + token[-4:],
            token[:22] + "A" * 42,
            "A" * 86 + "==",
            "x",
        ]
        for one in forged:
            refused = await refresh(visitor, one)
            assert (refused.status, refused.code) == (401, "not_authenticated"), one
        assert (await refresh(visitor, token)).ok and (await me(visitor, logged_in["access_token"])).ok

    async def test_a_malformed_refresh_token_is_invalid_input(self, visitor: httpx.AsyncClient) -> None:
        for token in ("", None, 7, "x" * 501, "\x00", "ж", []):
            assert (await refresh(visitor, token)).code == "invalid_input"

    async def test_an_expired_session_is_refused(
        self, visitor: httpx.AsyncClient, database: Database, logged_in: Tokens
    ) -> None:
        await backdate(database, logged_in, expire=True)
        for answer in (
            await refresh(visitor, logged_in["refresh_token"]),
            await me(visitor, logged_in["access_token"]),
        ):
            assert (answer.status, answer.code) == (401, "token_expired")


async def backdate(database: Database, tokens: Tokens, *, seconds: int = 0, expire: bool = False) -> None:
    """Move the session's last refresh into the past, or its end."""
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    changed: dict[str, Any] = {"last_used_at": Session.last_used_at - timedelta(seconds=seconds)}
    if expire:
        changed["expires_at"] = datetime.now(UTC) - timedelta(seconds=1)
    async with database.transaction() as db:
        await db.exec(update(Session).where(col(Session.id) == UUID(claims["sid"])).values(**changed))


async def wait_until_closed(person: Person) -> None:
    """Wait until the server has closed every connection, after `session_revoked`."""
    for socket in person.sockets:
        async with asyncio.timeout(DEADLINE):
            await socket.client.eio.wait()
        assert not socket.client.connected
        assert [event for event in socket.events if event[0] != "presence_changed"][-1] == (
            "session_revoked",
            {"code": "session_revoked"},
        )


class TestLogout:
    async def test_a_logout_ends_http_use_at_once(self, visitor: httpx.AsyncClient, logged_in: Tokens) -> None:
        headers = {"Authorization": f"Bearer {logged_in['access_token']}"}
        answer = http_answer(await visitor.post("/auth/logout", headers=headers))
        assert (answer.status, answer.data) == (204, None)
        assert (await me(visitor, logged_in["access_token"])).code == "session_revoked"
        assert (await refresh(visitor, logged_in["refresh_token"])).code == "session_revoked"

    async def test_the_sessions_connections_get_session_revoked_and_are_closed_for_good(
        self, service: Service, make_person: MakePerson
    ) -> None:
        anna = await make_person("Anna", connected=True)
        # One client that would reconnect by itself, as browsers do, and one that reads the packets.
        lasting, reasons = socketio.AsyncClient(reconnection=True, reconnection_delay=0), asyncio.Queue[str]()
        lasting.on("disconnect", reasons.put)
        await lasting.connect(service.base, auth={"token": anna.token}, transports=["websocket"])
        raw = await RawSocket.connected(service.base, anna.token)
        assert (await anna.http.post(f"{API}/auth/logout")).status_code == 204
        # The connections of this node do not wait for the sweep.
        assert not service.live.connections.of_user(UUID(anna.id))
        await wait_until_closed(anna)
        assert await raw.receive() == '42["session_revoked",{"code":"session_revoked"}]'
        # After this packet, "io server disconnect" to a browser, no client reconnects by itself.
        assert await raw.receive() == "41"
        async with asyncio.timeout(DEADLINE):
            assert await reasons.get() == socketio.AsyncClient.reason.SERVER_DISCONNECT
            await lasting.wait()
        assert not lasting.connected
        await raw.close()

    async def test_other_sessions_stay_logged_in(self, make_person: MakePerson) -> None:
        anna = await make_person("Anna", connected=True)
        phone = await make_person(again=anna, connected=True)
        await anna.http.post(f"{API}/auth/logout")
        await wait_until_closed(anna)
        assert (await phone.socket.call("list_chats")).ok
        assert (await phone.http.get(f"{API}/users/me")).status_code == 200

    async def test_a_session_that_another_process_ended_is_closed_within_five_seconds(
        self, database: Database, make_person: MakePerson
    ) -> None:
        anna = await make_person("Anna", connected=True)
        # This Database object is not the service's, so the service gets no event.
        async with database.transaction() as db:
            revoked = update(Session).where(col(Session.id) == anna.session_id).values(revoked_at=datetime.now(UTC))
            await db.exec(revoked)
        assert (await anna.http.get(f"{API}/users/me")).status_code == 401
        await wait_until_closed(anna)

    async def test_a_revoked_session_is_closed_also_after_a_sweep_that_crashed(
        self, database: Database, make_person: MakePerson, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        anna = await make_person("Anna", connected=True)
        crashed, list_ended = asyncio.Event(), sessions.list_ended

        async def crash_once(*arguments: Any) -> Any:
            if not crashed.is_set():
                crashed.set()
                raise LookupError
            return await list_ended(*arguments)

        monkeypatch.setattr(sessions, "list_ended", crash_once)
        async with asyncio.timeout(DEADLINE):
            await crashed.wait()
        async with database.transaction() as db:
            revoked = update(Session).where(col(Session.id) == anna.session_id).values(revoked_at=datetime.now(UTC))
            await db.exec(revoked)
        await wait_until_closed(anna)


class TestSessions:
    async def test_own_sessions_are_listed_the_last_used_first(
        self, visitor: httpx.AsyncClient, make_person: MakePerson
    ) -> None:
        anna = await make_person("Anna")
        phone = await make_person(again=anna)
        await make_person("Boris")
        listed = (await anna.http.get(f"{API}/auth/sessions")).json()
        assert [one["id"] for one in listed] == [str(phone.session_id), str(anna.session_id)]
        assert [one["is_current"] for one in listed] == [False, True]
        assert set(listed[0]) == {"id", "is_current", "user_agent", "created_at", "last_used_at", "expires_at"}
        assert listed[0]["user_agent"] == "tests"

    async def test_a_revoked_session_is_closed_and_leaves_the_list(self, make_person: MakePerson) -> None:
        anna = await make_person("Anna")
        phone = await make_person(again=anna, connected=True)
        answer = await anna.http.delete(f"{API}/auth/sessions/{phone.session_id}")
        assert answer.status_code == 204
        assert http_answer(await phone.http.get(f"{API}/users/me")).code == "session_revoked"
        await wait_until_closed(phone)
        listed = (await anna.http.get(f"{API}/auth/sessions")).json()
        assert [one["id"] for one in listed] == [str(anna.session_id)]

    async def test_sessions_of_others_and_revoked_sessions_are_not_found(self, make_person: MakePerson) -> None:
        anna, boris = await make_person("Anna"), await make_person("Boris", connected=True)
        phone = await make_person(again=anna)
        assert (await anna.http.delete(f"{API}/auth/sessions/{phone.session_id}")).status_code == 204
        for session_id in (boris.session_id, phone.session_id, uuid4()):
            answer = http_answer(await anna.http.delete(f"{API}/auth/sessions/{session_id}"))
            assert (answer.status, answer.code) == (404, "session_not_found")
        assert (await boris.socket.call("list_chats")).ok

    async def test_a_session_has_the_user_agent_of_its_login(
        self, visitor: httpx.AsyncClient, logged_in: Tokens
    ) -> None:
        form = {"username": logged_in["phone"], "password": PASSWORD}
        agent = "Phone 1" + "x" * 400
        tokens = (await visitor.post("/auth/login", data=form, headers={"User-Agent": agent})).json()
        headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        listed = (await visitor.get("/auth/sessions", headers=headers)).json()
        assert agent[:300] in [one["user_agent"] for one in listed]


async def test_no_answer_shows_a_hash_or_a_password(visitor: httpx.AsyncClient, logged_in: Tokens) -> None:
    headers = {"Authorization": f"Bearer {logged_in['access_token']}"}
    answers = [(await visitor.get(path, headers=headers)).json() for path in ("/users/me", "/auth/sessions")]
    text = json.dumps([*answers, logged_in])
    assert "hash" not in text and "argon2" not in text and PASSWORD not in text
