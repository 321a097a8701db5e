"""Tasks that run beside requests and commands: how they start, and how they end for certain."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

from chat_app.errors import ChatError
from chat_app.logs import log_crash

Result = TypeVar("Result")
_unclosed: list[asyncio.AbstractEventLoop] = []


class Background:
    """Tasks that no caller awaits. Their exceptions are logged; a ChatError was logged where it was raised."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Start at the next iteration of the event loop. The task that is returned need not be kept."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def repeat(self, work: Callable[[], Coroutine[Any, Any, object]], *, seconds: float) -> None:
        """Await `work` again and again, with a pause before each time; a failure does not end the repetition."""
        self.spawn(self._repeat(work, seconds))

    async def finish(self) -> None:
        """Wait until every task has ended by itself."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Cancel every task, and wait until it has ended."""
        await end_tasks(self._tasks)

    async def _repeat(self, work: Callable[[], Coroutine[Any, Any, object]], seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            # A task of its own: its failure is logged as that of any other.
            await asyncio.wait([self.spawn(work())])

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, ChatError):
            log_crash(error)


def run(
    main: Coroutine[Any, Any, Result], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> Result:
    """As `asyncio.run`, but it does not wait for threads: one in a name lookup stays for 20 seconds while the name
    server does not answer.
    """
    loop = (loop_factory or asyncio.new_event_loop)()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(end_tasks(asyncio.all_tasks(loop)))
        loop.run_until_complete(loop.shutdown_asyncgens())
        if isinstance(loop, asyncio.BaseEventLoop):
            loop.close()
        else:  # uvloop's close waits for its threads, which use the loop's memory
            _unclosed.append(loop)


async def end_tasks(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended: a library may swallow a cancellation. So it goes on when it is cancelled."""
    pending, is_cancelled = set(tasks), False
    while pending:
        for task in pending:
            task.cancel()
        try:
            _, pending = await asyncio.wait(pending, timeout=0.5)
        except asyncio.CancelledError:
            is_cancelled = True
    await asyncio.gather(*tasks, return_exceptions=True)
    if is_cancelled:
        raise asyncio.CancelledError


async def run_together(*works: Coroutine[Any, Any, None]) -> None:
    """Run until one of these ends, then end the others. Raises what that one raised.

    A TaskGroup cancels the others only once, and waits for ever for one that swallowed it.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
