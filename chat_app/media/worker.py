"""Runs pure functions in processes of their own: what hostile input does to them, the service survives."""

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

# Of the processor: how busy the machine is does not decide about a picture.
PROCESSOR_SECONDS = 2.0
# Of the clock, for a machine on which the processes come last.
JOB_SECONDS = 120
# The service gives up and kills earlier; this is for a job that hangs after the service is gone.
ALARM_SECONDS = 140
MEMORY_BYTES = 1 << 30
NICENESS = 10
# For each of the two queues.
MAX_WAITING = 32
MAX_WAITING_BYTES = 64_000_000
# So that one user does not take all places.
MAX_OF_ONE = 16
# Each may take all of that memory, so there are never more than two, however many cores.
PROCESSES = 2


class Large(Exception):
    """Raised by a function: call it again with `is_large=True`, one at a time."""


class _Queue:
    def __init__(self, most_at_once: int) -> None:
        self._slots = asyncio.Semaphore(most_at_once)
        self._locks: WeakValueDictionary[object, asyncio.Lock] = WeakValueDictionary()
        self._jobs: Counter[object] = Counter()
        self._bytes = 0

    @asynccontextmanager
    async def slot(self, size: int, owner: object) -> AsyncIterator[None]:
        """The jobs of one owner run one after another, so that others wait for one of them at most."""
        is_full = self._jobs.total() >= MAX_WAITING + PROCESSES or self._jobs[owner] >= MAX_OF_ONE
        if is_full or self._bytes + size > MAX_WAITING_BYTES:
            raise Unavailable("Too many pictures wait to be read; try again.", retry_after=5)
        self._jobs[owner] += 1
        self._bytes += size
        try:
            async with self._locks.setdefault(owner, asyncio.Lock()), self._slots:
                yield
        finally:
            self._jobs -= {owner: 1}
            self._bytes -= size


# Large jobs never have both processes: small ones do not wait for them.
_small, _large = _Queue(PROCESSES), _Queue(1)


async def in_worker(function: Callable[[*Ts], T], *args: *Ts, owner: object = None) -> T:
    """What `function(*args)` returns or raises. BadImage when it crashes or takes too much memory or processor time.

    Raises Unavailable when too much waits already, or the machine is too busy.
    `owner`: the user whose picture it is; None: nobody's.
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
    free = to_process.current_default_process_limiter()
    free.total_tokens = PROCESSES
    try:
        async with free, asyncio.timeout(JOB_SECONDS):
            # Whoever gives up kills the process: its answer would be taken for that of the next job.
            return await to_process.run_sync(_run, function, args, cancellable=True, limiter=CapacityLimiter(1))
    except BrokenWorkerProcess:
        log.warning("media worker lost", reason="crash, memory or processor time")
        raise BadImage("This picture is broken, or takes too much time or memory to read.") from None
    except TimeoutError:
        log.warning("media worker lost", reason="timeout")
        raise Unavailable("The machine is too busy to read this picture; try again.", retry_after=30) from None


def _run(function: Callable[..., T], args: tuple[Any, ...]) -> T:
    """In the process. Only the job is limited: input that was read by half would be taken for another job."""
    # Ctrl-C in a terminal goes to all; this process ends with its stdin, however the service ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.alarm(ALARM_SECONDS)
    # SIGPROF ends the process; a handler in Python would wait for the library to return.
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    # Whatever a library prints must not get between the answers, nor fill the pipe that nobody reads.
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
        os._exit(1)  # no memory left, or a mistake of ours: the next job gets a new process
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        os.dup2(answers, 1)
        os.close(answers)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
