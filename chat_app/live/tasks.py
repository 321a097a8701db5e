"""Ending what runs in the background: a library on whose way a cancellation comes may swallow it."""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any


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
