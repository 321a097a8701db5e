"""P27: only the person who proved a phone number by a code can use its account from then on."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chat_app.database import Database
from chat_app.settings import Settings
from tests.accounts import PASSWORD, Account, hashing_held, waiting_for_hashing, wrong
from tests.clients import until
from tests.service import MakePerson, Service

OWN = "the owner's password"
RACES = 40

Tokens = dict[str, Any]


@pytest.fixture
async def account(service: Service, database: Database) -> AsyncIterator[Account]:
    """A number that an attacker may register without owning it."""
    async with Account.at(service.base, database) as account:
        yield account


@pytest.fixture(params=["optional", "required"])
def verification(request: pytest.FixtureRequest, service_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it to apply the setting: sessions of unverified numbers were opened before it."""
    return lambda: monkeypatch.setattr(service_settings, "phone_verification", request.param)


@pytest.fixture
def required(service_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_settings, "phone_verification", "required")


async def is_shut_out(account: Account, *tokens: Tokens, passwords: tuple[str, ...] = (PASSWORD,)) -> bool:
    """Whether these tokens and passwords are all refused."""
    refused = [await account.me(each) for each in tokens] + [await account.refresh(each) for each in tokens]
    refused += [await account.log_in(password) for password in passwords]
    return {answer.code for answer in refused} <= {"session_revoked", "bad_credentials", "refresh_reused"}


async def prove(account: Account, **more: str) -> Tokens:
    """Log in with a code."""
    answer = await account.use("login", await account.code("login"), **more)
    assert answer.ok, answer
    tokens: Tokens = answer.data
    return tokens


class TestTheFirstProof:
    async def test_the_first_proof_by_a_login_ends_all_earlier_access(
        self, account: Account, verification: Any
    ) -> None:
        others = [await account.registered(), (await account.log_in()).data]
        connected = account.person(others[0])
        await connected.connect()
        verification()
        tokens = await prove(account)
        await until(lambda: not connected.socket.client.connected)
        assert connected.socket.named("session_revoked") == [{"code": "session_revoked"}]
        await connected.close()
        assert await is_shut_out(account, *others)
        me = (await account.me(tokens)).data
        assert (me["is_verified"], me["has_password"]) == (True, False)
        assert (await account.refresh(tokens)).ok

    async def test_the_first_proof_by_a_login_can_set_a_password(self, account: Account, verification: Any) -> None:
        others = await account.registered()
        verification()
        tokens = await prove(account, password=OWN)
        assert await is_shut_out(account, others)
        assert (await account.me(tokens)).data["has_password"]
        assert (await account.log_in(OWN)).ok

    async def test_the_first_proof_by_a_reset_ends_all_earlier_access(
        self, account: Account, verification: Any
    ) -> None:
        others = await account.registered()
        verification()
        assert (await account.use("reset", await account.code("reset"), new_password=OWN)).status == 204
        assert await is_shut_out(account, others)
        tokens = (await account.log_in(OWN)).data
        me = (await account.me(tokens)).data
        assert (me["is_verified"], me["has_password"]) == (True, True)

    async def test_later_proofs_end_no_session(self, account: Account) -> None:
        first = await prove(account, password=OWN)
        second = await prove(account)
        assert (await account.me(first)).ok and (await account.me(second)).ok
        assert (await account.log_in(OWN)).ok

    async def test_a_later_proof_with_another_password_changes_it(self, account: Account) -> None:
        first = await prove(account, password=PASSWORD)
        second = await prove(account, password=OWN)
        assert await is_shut_out(account, first)
        assert (await account.me(second)).ok and (await account.log_in(OWN)).ok

    async def test_a_short_password_or_a_wrong_code_changes_nothing(self, account: Account) -> None:
        others = await account.registered()
        code = await account.code("login")
        assert (await account.use("login", code, password="short")).code == "invalid_input"
        assert (await account.use("login", wrong(code), password=OWN)).code == "bad_code"
        assert (await account.me(others)).ok and (await account.log_in()).ok
        assert not (await account.me(others)).data["is_verified"]


class TestVerifying:
    async def test_verifying_needs_a_token_of_the_account_with_the_number(
        self, account: Account, make_person: MakePerson
    ) -> None:
        await account.registered()
        anna = await make_person("Anna")
        code = await account.code("verify")
        for token in (None, "garbage", anna.token):
            for _ in range(6):
                refused = await account.use("verify", code, token)
                assert (refused.status, refused.code) == (401, "not_authenticated")
        tokens = (await account.log_in()).data
        assert not (await account.me(tokens)).data["is_verified"]
        assert (await account.use("verify", code, tokens["access_token"])).ok, (
            "the refused requests were no guesses of the code"
        )

    async def test_verifying_returns_the_account_and_clears_nothing(self, account: Account) -> None:
        first, second = await account.registered(), (await account.log_in()).data
        assert (await account.use("verify", "000000", first["access_token"])).code == "bad_code"
        verified = await account.use("verify", await account.code("verify"), first["access_token"])
        assert (verified.status, verified.data["is_verified"], verified.data["has_password"]) == (200, True, True)
        assert (await account.me(second)).ok and (await account.log_in()).ok


@pytest.mark.usefixtures("required")
class TestWhereVerificationIsRequired:
    async def test_a_number_that_was_never_used_can_be_registered_anew(self, account: Account) -> None:
        first = await account.register(name="Somebody else")
        assert (await account.log_in()).code == "phone_not_verified"
        again = await account.register(OWN, name="Anna")
        assert again.status == 201
        assert (again.data["id"], again.data["name"]) == (first.data["id"], "Anna")
        assert (await account.log_in()).code == "bad_credentials"
        assert (await account.log_in(OWN)).code == "phone_not_verified"

    async def test_a_number_that_was_used_or_proven_or_deactivated_is_taken(self, account: Account) -> None:
        await account.register()
        await account.execute('UPDATE "user" SET is_active = false WHERE phone = :phone')
        assert (await account.register(OWN)).code == "phone_taken"
        await account.execute('UPDATE "user" SET is_active = true WHERE phone = :phone')
        assert (await account.use("reset", await account.code("reset"), new_password=PASSWORD)).ok
        assert (await account.register(OWN)).code == "phone_taken", "proven without a session"
        assert (await account.log_in()).ok
        await account.execute('UPDATE "user" SET is_verified = false WHERE phone = :phone')
        assert (await account.register(OWN)).code == "phone_taken", "used"

    async def test_registrations_during_a_login_by_code_leave_no_password(self, account: Account) -> None:
        code = await account.code("login")
        attempts = [account.register(f"{PASSWORD} {number}") for number in range(6)]
        attempts.insert(3, account.use("login", code))
        answers = await asyncio.gather(*attempts)
        assert answers.pop(3).ok
        assert {answer.code for answer in answers} <= {None, "phone_taken"}
        for number in range(6):
            assert (await account.log_in(f"{PASSWORD} {number}")).code == "bad_credentials"


async def test_a_registered_number_is_taken_where_verification_is_optional(account: Account) -> None:
    await account.register()
    assert (await account.register(OWN)).code == "phone_taken"
    assert (await account.log_in()).ok


class TestRaces:
    """Each race ends as if one had come after the other, and the owner has the account."""

    async def test_a_registration_races_the_first_login(self, service: Service, database: Database) -> None:
        for number in range(RACES):
            async with Account.at(service.base, database) as account:
                code = await account.code("login")
                # A login by code needs no hashing and is faster, so the registration gets a head start.
                with hashing_held():
                    registering = asyncio.create_task(account.register())
                    await until(lambda: waiting_for_hashing() >= 1)
                    login = asyncio.create_task(account.use("login", code)) if number % 2 else None
                registered = await registering if number % 4 < 2 else None
                answer = await (login or account.use("login", code))
                registered = registered or await registering
                assert answer.ok, answer
                assert registered.code in (None, "phone_taken")
                assert await is_shut_out(account)
                assert (await account.me(answer.data)).data["is_verified"]

    async def test_a_login_races_a_reset(self, service: Service, database: Database) -> None:
        for number in range(RACES // 2):
            async with Account.at(service.base, database) as account:
                others = await account.registered()
                login, reset = await account.code("login"), await account.code("reset")
                both = [account.use("login", login), account.use("reset", reset, new_password=OWN)]
                answers = await asyncio.gather(*both[:: 1 if number % 2 else -1])
                assert {answer.status for answer in answers} == {200, 204}
                assert await is_shut_out(account, others)
                assert (await account.log_in(OWN)).ok, "the login cleared the password or kept the new one"

    async def test_logins_with_one_code_race(self, account: Account) -> None:
        others = await account.registered()
        code = await account.code("login")
        answers = await asyncio.gather(*(account.use("login", code) for _ in range(8)))
        assert sorted(answer.status for answer in answers) == [200] + [400] * 7
        assert await is_shut_out(account, others)
        assert (await account.me(next(answer.data for answer in answers if answer.ok))).ok

    async def test_the_first_login_races_everything_others_can_do(self, service: Service, database: Database) -> None:
        for _ in range(RACES // 8):
            async with Account.at(service.base, database) as account:
                sessions = [await account.registered(), *[(await account.log_in()).data for _ in range(3)]]
                code = await account.code("login")
                tries = [account.refresh(each) for each in sessions] + [account.log_in() for _ in range(4)]
                tries += [account.change_password(each, "the attacker's password") for each in sessions]
                tries.insert(len(tries) // 2, account.use("login", code))
                answers = await asyncio.gather(*tries)
                owner = answers.pop((len(answers) - 1) // 2)
                assert owner.ok
                gained = [answer.data for answer in answers if answer.data]
                passwords = (PASSWORD, "the attacker's password")
                assert await is_shut_out(account, *sessions, *gained, passwords=passwords)
                assert (await account.me(owner.data)).data["has_password"] is False

    async def test_a_password_change_that_began_before_the_proof_sets_no_password(self, account: Account) -> None:
        """The owner's account has no password then, so the change would need no current one."""
        others = await account.registered()
        code = await account.code("login")
        with hashing_held():
            changing = asyncio.create_task(account.change_password(others, "the attacker's password", current=None))
            await until(lambda: waiting_for_hashing() >= 1)
            assert (await account.use("login", code)).ok
        assert (await changing).code == "session_revoked"
        assert await is_shut_out(account, others, passwords=(PASSWORD, "the attacker's password"))


@pytest.mark.parametrize("purpose", ["login", "verify", "reset", "change", "delete"])
async def test_a_code_is_valid_for_its_own_purpose_only(account: Account, purpose: str) -> None:
    tokens = await account.registered()
    requested = await account.post("codes", {"phone": account.phone, "purpose": purpose})
    assert (requested.status, requested.data) == (202, {"expires_in": 300, "resend_in": 60})
    code = await account.code(purpose)
    for what, more in (("login", {}), ("verify", {}), ("reset", {"new_password": OWN})):
        if what != purpose:
            assert (await account.use(what, code, tokens["access_token"], **more)).code == "bad_code"
