"""Background tasks always end, and a failed one disturbs nothing."""

import asyncio

import pytest

from chat_app.background import Background, end_tasks, run_together
from chat_app.errors import Unavailable
from tests.clients import DEADLINE


class Stubborn:
    """Work that continues after its first cancellation."""

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


async def test_a_task_that_swallows_a_cancellation_ends() -> None:
    stubborn = Stubborn()
    task = asyncio.create_task(stubborn.run())
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE):
        await end_tasks([task])
    assert stubborn.is_over and task.cancelled()


async def test_a_task_ends_when_another_one_fails() -> None:
    stubborn = Stubborn()
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(RuntimeError):
            await run_together(stubborn.run(), fail())
    assert stubborn.is_over


async def test_a_task_ends_when_its_caller_is_cancelled() -> None:
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


async def test_a_failure_is_logged_unless_it_was_where_it_was_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[BaseException] = []
    monkeypatch.setattr("chat_app.background.log_crash", logged.append)
    background = Background()

    async def be_unavailable() -> None:
        raise Unavailable

    background.spawn(fail())
    background.spawn(be_unavailable())
    await background.finish()
    await asyncio.sleep(0)
    assert [type(error) for error in logged] == [RuntimeError]


async def test_a_repetition_goes_on_after_a_failure_and_ends_with_the_others() -> None:
    background, stubborn, times = Background(), Stubborn(), asyncio.Semaphore(0)

    async def count_and_fail() -> None:
        times.release()
        raise Unavailable

    background.repeat(count_and_fail, seconds=0)
    background.spawn(stubborn.run())
    async with asyncio.timeout(DEADLINE):
        for _ in range(3):
            await times.acquire()
        await background.close()
    assert stubborn.is_over and not background._tasks


async def test_finishing_waits_for_what_was_started() -> None:
    background, done = Background(), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    background.spawn(work())
    await background.finish()
    assert done.is_set()
