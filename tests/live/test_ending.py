"""How what runs in the background ends."""

import asyncio

import pytest

from chat_app.live.tasks import end_tasks, run_together
from tests.clients import DEADLINE


class Stubborn:
    """Work that goes on when it is cancelled for the first time."""

    def __init__(self) -> None:
        self.swallowed = 0
        self.is_over = False

    async def run(self) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if self.swallowed:
                    self.is_over = True
                    raise
                self.swallowed += 1


async def fail() -> None:
    raise RuntimeError


async def test_a_task_that_swallows_a_cancellation_ends_all_the_same() -> None:
    stubborn = Stubborn()
    task = asyncio.create_task(stubborn.run())
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE):
        await end_tasks([task])
    assert stubborn.is_over and task.cancelled()


async def test_it_ends_also_when_another_fails() -> None:
    stubborn = Stubborn()
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(RuntimeError):
            await run_together(stubborn.run(), fail())
    assert stubborn.is_over


async def test_it_ends_also_when_whoever_ends_it_is_cancelled() -> None:
    stubborn = Stubborn()
    together = asyncio.create_task(run_together(stubborn.run()))
    await asyncio.sleep(0.01)
    together.cancel()
    await asyncio.sleep(0.01)
    together.cancel()
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(asyncio.CancelledError):
            await together
    assert stubborn.is_over
