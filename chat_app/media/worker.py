"""Runs pure functions in worker processes, so that the service survives hostile input."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, TypeVarTuple, cast
from weakref import WeakValueDictionary

from anyio import BrokenWorkerProcess, CapacityLimiter, to_process

from chat_app import metrics
from chat_app.errors import BadImage, Unavailable
from chat_app.logs import log
from chat_app.media.job import Large, run_job

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Wall-clock time, for a busy machine: the workers have the lowest priority.
JOB_SECONDS = 120
# For each of the two queues.
MAX_WAITING = 32
MAX_WAITING_BYTES = 64_000_000
# One user can't fill the queue.
MAX_OF_ONE = 16
# Each may use MEMORY_BYTES, so the number of cores does not matter.
PROCESSES = 2


class _Queue:
    def __init__(self, most_at_once: int) -> None:
        self._slots = asyncio.Semaphore(most_at_once)
        self._locks: WeakValueDictionary[object, asyncio.Lock] = WeakValueDictionary()
        self._jobs: Counter[object] = Counter()
        self._bytes = 0

    @asynccontextmanager
    async def slot(self, size: int, owner: object) -> AsyncIterator[None]:
        """Wait for a free worker. Jobs of one owner run one after another, so others wait for one of them at most."""
        is_full = self._jobs.total() >= MAX_WAITING + PROCESSES or self._jobs[owner] >= MAX_OF_ONE
        if is_full or self._bytes + size > MAX_WAITING_BYTES:
            metrics.media_failures.labels("full").inc()
            raise Unavailable("Too many pictures are waiting. Try again.", retry_after=5)
        self._jobs[owner] += 1
        self._bytes += size
        metrics.media_jobs.inc()
        try:
            async with self._locks.setdefault(owner, asyncio.Lock()), self._slots:
                yield
        finally:
            metrics.media_jobs.dec()
            self._jobs -= {owner: 1}
            self._bytes -= size


# Large jobs never use both processes, so small jobs do not wait for them.
_small, _large = _Queue(PROCESSES), _Queue(1)
_processes = asyncio.Semaphore(PROCESSES)


async def in_worker(function: Callable[[*Ts], T], *args: *Ts, owner: object = None) -> T:
    """Call `function(*args)` in a worker. Raises BadImage if it crashes or uses too much memory or CPU time.

    Raises Unavailable if the queue is full or the machine too busy. `owner` is the user whose picture it is.
    """
    size, apart = sum(map(sys.getsizeof, args)), cast(Callable[..., T], function)
    owner = object() if owner is None else owner
    try:
        async with _small.slot(size, owner):
            return await _in_process(function, args)
    except Large:
        async with _large.slot(size, owner):
            return await _in_process(partial(apart, is_large=True), args)


async def _in_process(function: Callable[..., T], args: tuple[Any, ...]) -> T:
    try:
        async with _processes, asyncio.timeout(JOB_SECONDS):
            # Cancelling kills the process, as its answer would be taken for that of the next job.
            return await to_process.run_sync(run_job, function, args, cancellable=True, limiter=CapacityLimiter(1))
    except BrokenWorkerProcess:
        metrics.media_failures.labels("crash").inc()
        log.warning("media worker lost", reason="crash, memory or CPU time")
        raise BadImage("This picture is broken, or reading it takes too much time or memory.") from None
    except TimeoutError:
        metrics.media_failures.labels("timeout").inc()
        log.warning("media worker lost", reason="timeout")
        raise Unavailable("The machine is too busy to read this picture. Try again.", retry_after=30) from None
