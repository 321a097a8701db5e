"""Runs pure functions in worker processes, so that the service survives hostile input."""

import asyncio
import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar, TypeVarTuple, cast
from weakref import WeakValueDictionary

from anyio import BrokenWorkerProcess, CapacityLimiter, to_process

from chat_app.errors import BadImage, ChatError, Unavailable
from chat_app.logs import log

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# CPU time, so that a busy machine does not refuse pictures.
PROCESSOR_SECONDS = 2.0
# Wall-clock time, for a busy machine: the workers have the lowest priority.
JOB_SECONDS = 120
# The service kills a job earlier. This is for a job that outlives the service.
ALARM_SECONDS = 140
MEMORY_BYTES = 1 << 30
NICENESS = 10
# For each of the two queues.
MAX_WAITING = 32
MAX_WAITING_BYTES = 64_000_000
# One user can't fill the queue.
MAX_OF_ONE = 16
# Each may use MEMORY_BYTES, so the number of cores does not matter.
PROCESSES = 2


class Large(Exception):
    """Raised by a function that wants to be called again with `is_large=True`, one at a time."""


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
            raise Unavailable("Too many pictures are waiting. Try again.", retry_after=5)
        self._jobs[owner] += 1
        self._bytes += size
        try:
            async with self._locks.setdefault(owner, asyncio.Lock()), self._slots:
                yield
        finally:
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
            return await to_process.run_sync(_run, function, args, cancellable=True, limiter=CapacityLimiter(1))
    except BrokenWorkerProcess:
        log.warning("media worker lost", reason="crash, memory or CPU time")
        raise BadImage("This picture is broken, or reading it takes too much time or memory.") from None
    except TimeoutError:
        log.warning("media worker lost", reason="timeout")
        raise Unavailable("The machine is too busy to read this picture. Try again.", retry_after=30) from None


def _run(function: Callable[..., T], args: tuple[Any, ...]) -> T:
    """Run in the worker. The limits hold for the job alone, as half-read input would be taken for another job."""
    # Ctrl-C in a terminal reaches all processes. This one ends when its stdin closes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.alarm(ALARM_SECONDS)
    # SIGPROF kills the process. A handler in Python would run only after the library returned.
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    # Output of a library must not mix with the answers, nor fill a pipe that nobody reads.
    answers, nowhere = os.dup(1), sys.stderr.fileno()
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, most))
    try:
        return function(*args)
    except (ChatError, Large):
        raise
    except BaseException:
        os._exit(1)  # out of memory, or a bug: the next job gets a new process
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        os.dup2(answers, 1)
        os.close(answers)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
