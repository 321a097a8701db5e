"""How the races of a part are shared out among those who run them at the same time, and what they ask for surely."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from tests.chaos.wire import ConnectionEnded, Refusal
from tests.volume.servers import Servers

UNAVAILABLE = 503
MOST_UNAVAILABLE = 0.1
ANSWER_SECONDS = 120.0
RETRY_SECONDS = 0.05
ENDED = {401, 404}


async def surely(ask: Callable[[], Awaitable[tuple[int, Any]]], *, ends: bool = False) -> Any:
    """Ask until the outcome is known: a busy machine may refuse, or end a connection. Returns the data of the success.

    `ends`: it ends something, which is gone if a former attempt succeeded. Raises RuntimeError, TimeoutError.
    """
    is_repeated = False
    async with asyncio.timeout(ANSWER_SECONDS):
        while True:
            try:
                status, data = await ask()
            except (ConnectionEnded, OSError):
                status, data = UNAVAILABLE, None
            if status < 300 or (ends and is_repeated and status in ENDED):
                return data
            if status != UNAVAILABLE:
                raise RuntimeError(f"it got {status}: {data}")
            is_repeated = True
            await asyncio.sleep(RETRY_SECONDS)


def check_available(servers: Servers, unavailable: int, answers: int) -> None:
    """Few answers may be 503, which is no violation of its own, or what was asked for proves nothing."""
    if unavailable > answers * MOST_UNAVAILABLE:
        servers.violations.append(f"{unavailable} of {answers} answers were 503: this proves little")


class Racer(Protocol):
    async def race(self) -> None: ...


async def share(servers: Servers, count: int, racers: Sequence[Racer]) -> None:
    """So many races in all. One that can't go on is a violation, and its racer stops."""
    left = iter(range(count))

    async def run(racer: Racer) -> None:
        for _ in left:
            try:
                await racer.race()
            except (ConnectionEnded, Refusal, TimeoutError, OSError, RuntimeError) as error:
                servers.violations.append(f"a race ended with {type(error).__name__} {error}")
                return

    await asyncio.gather(*(run(racer) for racer in racers))
