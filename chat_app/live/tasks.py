"""Ending what runs in the background: a library on whose way a cancellation comes may swallow it."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")
_unclosed: list[asyncio.AbstractEventLoop] = []


def run(
    main: Coroutine[Any, Any, Result], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> Result:
    """As `asyncio.run`, but threads are not waited for: one that looks up a name stays for 20 seconds while the name
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


async def end_tasks(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks until they are over, also when this is cancelled meanwhile."""
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
    """Run until one of these is over, and end the others. Raises what that one raised.

    A TaskGroup cancels the others once, and waits for ever for one in which that was swallowed.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
