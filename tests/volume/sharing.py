"""How the races of a part are shared out among those who run them at the same time."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from tests.chaos.wire import ConnectionEnded, Refusal
from tests.volume.servers import Servers


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
