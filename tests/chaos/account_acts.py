"""What the clients of a run do with accounts and sessions: logging in and out, passwords, codes."""

import asyncio
from typing import Any
from uuid import uuid4

from tests.chaos.acts import pause
from tests.chaos.calls import Answer, Person
from tests.chaos.history import Json
from tests.chaos.world import Turn, part

CODE_SECONDS = 5.0
PASSWORD = "long enough"


async def ask(turn: Turn, name: str, args: Json, **special: Any) -> Answer:
    """Something for which no session is needed."""
    recorded = special.pop("recorded", {})
    node = turn.random.choice(turn.world.nodes)
    return await turn.client.over_http(name, args, node=node, token=None, session="", recorded=recorded, **special)


async def use_session(turn: Turn, tokens: Json, session: str) -> Answer:
    """Something that needs a session, on any node."""
    node = turn.random.choice(turn.world.nodes)
    return await turn.client.over_http("get_me", {}, node=node, token=tokens["access_token"], session=session)


async def open_session(turn: Turn) -> tuple[Json, str] | None:
    """One more session of the client's user."""
    answer = await turn.client.login(turn.client.person.passwords[0])
    return (answer.data, turn.client.session_of(answer.data)) if answer.ok else None


@part(0.3)
async def register(turn: Turn) -> None:
    phone = turn.world.new_phone()
    for _ in range(2):  # the second time it is taken
        await ask(turn, "register", {"phone": phone, "password": PASSWORD, "name": "Somebody"})


@part(0.6)
async def login(turn: Turn) -> None:
    if opened := await open_session(turn):
        await use_session(turn, *opened)


@part(0.5)
async def logout(turn: Turn) -> None:
    """One more session, used, ended, and used again."""
    if opened := await open_session(turn):
        tokens, session = opened
        special = {"token": tokens["access_token"], "session": session}
        await turn.client.over_http("logout", {}, node=turn.random.choice(turn.world.nodes), **special)
        await use_session(turn, tokens, session)


@part(0.5)
async def revoke_session(turn: Turn) -> None:
    """Of one's own: another one, which is then used, or the very one of a client, which then has to log in."""
    if turn.random.random() < 0.3:
        await turn.do("revoke_session", {"session_id": turn.client.session})
    elif opened := await open_session(turn):
        await turn.do("revoke_session", {"session_id": opened[1]})
        await use_session(turn, *opened)


@part(0.6)
async def refresh(turn: Turn) -> None:
    await turn.client.refresh()


@part(0.4)
async def change_password(turn: Turn) -> None:
    """While others log in with the former one: their sessions end too. Then with the former one nobody gets in."""
    person = turn.client.person
    async with person.lock:
        former, new = person.passwords[0], f"password {uuid4()}"
        person.passwords.insert(0, new)
        args = {"current_password": former, "new_password": new}
        recorded = {"former": former, "keep": turn.client.session}
        change = turn.client.over_http("change_password", args, recorded=recorded)
        racing = [_log_in_meanwhile(turn, former) for _ in range(2)]
        answer, *sessions = await asyncio.gather(change, *racing)
        _settle(person, new, answer)
    for opened in [opened for opened in sessions if opened]:
        await use_session(turn, *opened)
    if answer.ok:
        await turn.client.login(former)


async def _log_in_meanwhile(turn: Turn, password: str) -> tuple[Json, str] | None:
    await asyncio.sleep(0.2 * turn.random.random())
    answer = await turn.client.login(password)
    return (answer.data, turn.client.session_of(answer.data)) if answer.ok else None


@part(0.3)
async def request_code(turn: Turn) -> None:
    await ask(turn, "request_code", {"phone": turn.world.new_phone(), "purpose": "login"})


async def _code(turn: Turn, phone: str, purpose: str) -> str | None:
    """A code that was sent to a phone, if it comes."""
    turn.world.codes.pop(phone, None)
    if (await ask(turn, "request_code", {"phone": phone, "purpose": purpose})).ok:
        for _ in range(int(CODE_SECONDS / 0.25)):
            if phone in turn.world.codes:
                return turn.world.codes[phone]
            await pause(turn)
    return None


@part(0.3)
async def login_with_code(turn: Turn) -> None:
    """A number that is new becomes a user."""
    phone = turn.world.new_phone()
    if code := await _code(turn, phone, "login"):
        await ask(turn, "login_with_code", {"phone": phone, "code": code}, is_own=False)


@part(0.3)
async def verify_phone(turn: Turn) -> None:
    person = turn.client.person
    if code := await _code(turn, person.phone, "verify"):
        await turn.client.over_http("verify_phone", {"phone": person.phone, "code": code}, recorded={})


@part(0.3)
async def reset_password(turn: Turn) -> None:
    """All sessions of the user end."""
    person = turn.client.person
    async with person.lock:
        if code := await _code(turn, person.phone, "reset"):
            new = f"password {uuid4()}"
            person.passwords.insert(0, new)
            args = {"phone": person.phone, "code": code, "new_password": new}
            answer = await ask(turn, "reset_password", args, recorded={"of": person.id})
            _settle(person, new, answer)


def _settle(person: Person, new: str, answer: Answer) -> None:
    if answer.outcome == "failed":
        person.passwords.remove(new)
    elif answer.ok:
        person.passwords = [new]


@part(0.3)
async def lookup_user(turn: Turn) -> None:
    await turn.do("lookup_user", {"phone": turn.somebody().phone})
