"""P22: while logins with wrong passwords come as fast as they are answered, messages are delivered all the same."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from statistics import median
from time import monotonic

import httpx
import pytest

from tests.clients import Person
from tests.process import Process
from tests.service import MakePerson
from tests.system.conftest import LOGIN, PASSWORD, SOCKET, brings

pytestmark = pytest.mark.timeout(180)

AT_ONCE, LOGINS, TIMES = 8, 40, 30


@asynccontextmanager
async def flooding(base: str, phone: str) -> AsyncIterator[list[int]]:
    """The statuses of the answers so far."""
    statuses: list[int] = []

    async def log_in(http: httpx.AsyncClient) -> None:
        while True:
            answer = await http.post(LOGIN, data={"username": phone, "password": "not the right one"})
            statuses.append(answer.status_code)

    async with httpx.AsyncClient(base_url=base, verify=False, timeout=60) as http:
        tasks = [asyncio.create_task(log_in(http)) for _ in range(AT_ONCE)]
        yield statuses
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def delivery_seconds(
    sender: Person, receiver: Person, chat_id: str, is_enough: Callable[[], bool] = lambda: True
) -> float:
    """The median from the sending to the event."""
    seconds: list[float] = []
    while len(seconds) < TIMES or not is_enough():
        started = monotonic()
        message = await SOCKET.send(sender, chat_id)
        await receiver.socket.wait_for("messages_changed", lambda event, seq=message["seq"]: brings(event, seq))
        seconds.append(monotonic() - started)
        receiver.socket.events.clear()
    return median(seconds)


async def test_a_flood_of_logins_does_not_keep_messages_waiting(
    process: Process, make_person: MakePerson, at: Callable[[str, Person], Person]
) -> None:
    anna, boris = [at(process.base, await make_person(name)) for name in ("Anna", "Boris")]
    chat = await SOCKET.open_private_chat(anna, boris)
    await boris.open(chat["id"])
    body = {"phone": "+79161234500", "password": PASSWORD}
    assert (await anna.http.post("/api/v1/auth/register", json=body)).status_code == 201
    usual = await delivery_seconds(anna, boris, chat["id"])
    async with flooding(process.base, body["phone"]) as statuses:
        meanwhile = await delivery_seconds(anna, boris, chat["id"], lambda: len(statuses) >= LOGINS)
    assert set(statuses) <= {400, 401, 429, 503}
    # Passwords are hashed on all processors, which the test needs too.
    assert meanwhile < 0.05 + 10 * usual, f"{meanwhile:.3f} s instead of {usual:.3f} s, {len(statuses)} logins"
    print(f"{meanwhile:.3f} s instead of {usual:.3f} s, {len(statuses)} logins")  # noqa: T201  # -rP shows the figures
