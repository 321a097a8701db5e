"""How what runs in the background ends."""

import asyncio

from chat_app.live.server import end_tasks
from tests.clients import DEADLINE


async def test_a_task_that_swallows_a_cancellation_ends_all_the_same() -> None:
    swallowed: list[None] = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed:
                    raise
                swallowed.append(None)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE):
        await end_tasks([task])
    assert swallowed and task.cancelled()
