"""A change of credentials ends all sessions of the old ones, also those being opened; hashing holds no connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from chat_app.database import Database
from chat_app.live.server import SESSION_CHECK_SECONDS
from tests.accounts import PASSWORD, Account, hashing_held, waiting_for_hashing
from tests.clients import DEADLINE, Answer, until
from tests.service import Service

NEW_PASSWORD = "the second password"
# Simultaneous logins against one change.
RIVALS = 10
ROUNDS = 4

MakeAccount = Callable[[], Awaitable[Account]]


@pytest.fixture
async def make_account(service: Service, database: Database) -> AsyncIterator[MakeAccount]:
    """`await make_account()`: an account with a new number."""
    async with AsyncExitStack() as stack:

        async def make() -> Account:
            return await stack.enter_async_context(Account.at(service.base, database))

        yield make


async def wait_for_lock_waiters(connection: AsyncConnection, count: int) -> None:
    """Return when so many backends wait for a lock."""
    async with asyncio.timeout(DEADLINE):
        while await connection.scalar(text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")) < count:
            pass


async def change_by_password(account: Account, tokens: dict[str, Any], _code: str) -> Answer:
    return await account.change_password(tokens, NEW_PASSWORD)


async def change_by_code(account: Account, _tokens: dict[str, Any], code: str) -> Answer:
    return await account.use("reset", code, new_password=NEW_PASSWORD)


CHANGES = {"change": change_by_password, "reset": change_by_code}


class TestP19:
    """A password change ends every session that the old password opened, also one that is being opened."""

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("is_first", [True, False], ids=["change first", "logins first"])
    async def test_a_login_with_the_old_password_opens_no_lasting_session(
        self, change: str, is_first: bool, make_account: MakeAccount
    ) -> None:
        opened = []
        for _ in range(ROUNDS):
            account = await make_account()
            tokens, code = await account.registered(), await account.code("reset")
            rivals = [account.log_in() for _ in range(RIVALS)]
            rivals.insert(0 if is_first else RIVALS // 2, CHANGES[change](account, tokens, code))
            answers = await asyncio.gather(*rivals)
            changed = answers.pop(0 if is_first else RIVALS // 2)
            assert changed.status == 204
            assert {answer.code for answer in answers} <= {None, "bad_credentials"}
            opened += [(account, answer.data) for answer in answers if answer.ok]
            assert (await account.log_in(NEW_PASSWORD)).ok
        lasting = [tokens for account, tokens in opened if (await account.me(tokens)).ok]
        assert len(lasting) == 0, f"{len(lasting)} of {ROUNDS * RIVALS}"

    @pytest.mark.parametrize("change", CHANGES)
    async def test_a_login_checked_before_the_change_and_written_after_it_is_refused(
        self, change: str, make_account: MakeAccount
    ) -> None:
        account = await make_account()
        tokens, code = await account.registered(), await account.code("reset")
        with hashing_held():
            first = asyncio.create_task(CHANGES[change](account, tokens, code))
            # The new password is hashed, and the old one checked, before the logins below.
            await until(lambda: waiting_for_hashing() >= 1)
            logins = [asyncio.create_task(account.log_in()) for _ in range(RIVALS)]
            await until(lambda: waiting_for_hashing() > RIVALS)
        assert (await first).status == 204
        for answer in await asyncio.gather(*logins):
            assert answer.code == "bad_credentials" or not (await account.me(answer.data)).ok

    @pytest.mark.parametrize("change", CHANGES)
    async def test_a_simultaneous_refresh_keeps_no_session_alive(self, change: str, make_account: MakeAccount) -> None:
        for _ in range(ROUNDS):
            account = await make_account()
            tokens = (await account.use("login", await account.code("login"), password=PASSWORD)).data
            others = [(await account.use("login", await account.code("login"))).data for _ in range(RIVALS)]
            code = await account.code("reset")
            refreshing = [account.refresh(other) for other in others]
            refreshing.insert(RIVALS // 2, CHANGES[change](account, tokens, code))
            answers = await asyncio.gather(*refreshing)
            assert answers.pop(RIVALS // 2).status == 204
            assert {answer.code for answer in answers} <= {None, "session_revoked"}
            for answer in answers:
                assert not answer.ok or (await account.me(answer.data)).code == "session_revoked"
                assert not answer.ok or (await account.refresh(answer.data)).code == "session_revoked"

    async def test_a_session_that_a_code_opens_during_a_reset_ends_too(self, make_account: MakeAccount) -> None:
        account = await make_account()
        first = (await account.use("login", await account.code("login"))).data
        login, code = await account.code("login"), await account.code("reset")
        async with account.database.engine.connect() as connection:
            with hashing_held():
                reset = asyncio.create_task(account.use("reset", code, new_password=NEW_PASSWORD))
                await until(lambda: waiting_for_hashing() >= 1)
                # The login is blocked where it writes its session, and the reset runs as far as it can.
                await connection.execute(text("LOCK TABLE session IN SHARE MODE"))
                opening = asyncio.create_task(account.use("login", login))
                await wait_for_lock_waiters(connection, 1)
            await wait_for_lock_waiters(connection, 2)
        opened = await opening
        assert opened.ok and (await reset).status == 204
        assert [(await account.me(tokens)).code for tokens in (first, opened.data)] == ["session_revoked"] * 2

    async def test_only_one_of_simultaneous_changes_with_one_password_succeeds(self, make_account: MakeAccount) -> None:
        account = await make_account()
        tokens = await account.registered()
        new = [f"{NEW_PASSWORD} {number}" for number in range(RIVALS)]
        answers = await asyncio.gather(*(account.change_password(tokens, password) for password in new))
        assert sorted(str(answer.code) for answer in answers) == ["None"] + ["bad_credentials"] * (RIVALS - 1)
        winner = next(
            password for password, answer in zip(new, answers, strict=True) if answer.code != "bad_credentials"
        )
        assert (await account.log_in(winner)).ok

    async def test_a_session_revoked_during_the_change_changes_no_password(self, make_account: MakeAccount) -> None:
        account = await make_account()
        tokens = await account.registered()
        assert await account.execute('UPDATE "user" SET hashed_password = NULL WHERE phone = :phone') == 1
        with hashing_held():
            changing = asyncio.create_task(account.change_password(tokens, NEW_PASSWORD, current=None))
            await until(lambda: waiting_for_hashing() >= 1)
            assert (await account.post("logout", {}, tokens["access_token"])).ok
        assert (await changing).code == "session_revoked"
        assert (await account.log_in(NEW_PASSWORD)).code == "bad_credentials"


class TestDeactivation:
    """A user deactivated by plain SQL loses HTTP at once and connections within 5 seconds."""

    DEACTIVATE = 'UPDATE "user" SET is_active = false WHERE phone = :phone'

    async def test_a_deactivation_ends_http_and_refresh_at_once(self, make_account: MakeAccount) -> None:
        account = await make_account()
        tokens = await account.registered()
        assert await account.execute(self.DEACTIVATE) == 1
        assert (await account.me(tokens)).code == "session_revoked"
        assert (await account.refresh(tokens)).code == "session_revoked"
        assert (await account.log_in()).code == "bad_credentials"
        assert (await account.use("login", await account.code("login"))).code == "bad_code"
        reset = await account.use("reset", await account.code("reset"), new_password=NEW_PASSWORD)
        assert reset.code == "bad_code"

    async def test_a_deactivation_closes_every_connection(self, make_account: MakeAccount) -> None:
        account, other = await make_account(), await make_account()
        people = [each.person(await each.registered()) for each in (account, other)]
        for person in people:
            await person.connect()
        await people[0].connect()
        assert await account.execute(self.DEACTIVATE) == 1
        for socket in people[0].sockets:
            await until(lambda socket=socket: socket.named("session_revoked") and not socket.client.connected)
        # Each node checks its sessions by itself. A check may have begun just before.
        assert 2 * SESSION_CHECK_SECONDS < 5
        assert (await people[1].socket.call("list_chats")).ok
        for person in people:
            await person.close()

    async def test_a_login_during_the_deactivation_opens_no_session(self, make_account: MakeAccount) -> None:
        account = await make_account()
        await account.registered()
        code = await account.code("login")
        with hashing_held():
            logins = [asyncio.create_task(account.log_in()) for _ in range(RIVALS)]
            await until(lambda: waiting_for_hashing() >= RIVALS)
            assert await account.execute(self.DEACTIVATE) == 1
        assert {answer.code for answer in await asyncio.gather(*logins)} == {"bad_credentials"}
        assert (await account.use("login", code)).code == "bad_code"


class TestHashing:
    """Hashing a password takes a tenth of a second in the one thread for it. Nothing else may wait for that thread."""

    @pytest.mark.parametrize("path", ["register", "login", "change", "reset", "login with code"])
    async def test_hashing_holds_no_connection_to_the_database(
        self, path: str, service: Service, make_account: MakeAccount
    ) -> None:
        pool: Any = service.database.engine.pool
        accounts = [await make_account() for _ in range(pool.size())]
        bystander = await make_account()
        tokens = await bystander.registered()
        ready = [await self.prepare(path, account) for account in accounts]
        with hashing_held():
            tasks = [asyncio.create_task(start()) for start in ready]
            await until(lambda: waiting_for_hashing() >= len(tasks))
            # The service's sweep uses a connection for a moment every two seconds.
            await until(lambda: pool.checkedout() == 0)
            headers = {"Authorization": f"Bearer {tokens['access_token']}"}
            answer = await bystander.http.get("/auth/sessions", headers=headers)
        for done in await asyncio.gather(*tasks):
            assert done.ok, done
        assert answer.status_code == 200

    async def prepare(self, path: str, account: Account) -> Callable[[], Awaitable[Answer]]:
        if path == "register":
            return account.register
        tokens = await account.registered()
        match path:
            case "login":
                return account.log_in
            case "change":
                return lambda: account.change_password(tokens, NEW_PASSWORD)
            case "reset":
                code = await account.code("reset")
                return lambda: account.use("reset", code, new_password=NEW_PASSWORD)
        code = await account.code("login")
        return lambda: account.use("login", code, password=PASSWORD)
