"""Runs pure functions in processes of their own: what hostile input does to them, the service survives."""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

from anyio import BrokenWorkerProcess, CapacityLimiter, to_process

from chat_app.errors import BadImage, ChatError, Unavailable
from chat_app.logs import log

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

JOB_SECONDS = 30
# The service gives up and kills earlier; this is for a job that hangs after the service is gone.
ALARM_SECONDS = 40
MEMORY_BYTES = 1 << 30
NICENESS = 10
MAX_WAITING = 32
MAX_WAITING_BYTES = 100_000_000
# Each may take all of that memory, so there are never more than two, however many cores.
PROCESSES = max(1, min(2, (os.cpu_count() or 1) - 1))

_bytes = 0


async def in_worker(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """What `function(*args)` returns or raises. BadImage when it crashes, eats its memory or takes too long.

    Raises Unavailable when too much waits already.
    """
    global _bytes
    free, size = to_process.current_default_process_limiter(), sum(map(sys.getsizeof, args))
    free.total_tokens = PROCESSES
    if free.statistics().tasks_waiting >= MAX_WAITING or _bytes + size > MAX_WAITING_BYTES:
        raise Unavailable("Too many pictures wait to be read; try again.", retry_after=5)
    _bytes += size
    try:
        async with free, asyncio.timeout(JOB_SECONDS):
            # Whoever gives up kills the process: its answer would be taken for that of the next job.
            return await to_process.run_sync(_run, function, args, cancellable=True, limiter=CapacityLimiter(1))
    except (TimeoutError, BrokenWorkerProcess) as error:
        log.warning("media worker lost", reason=type(error).__name__)
        raise BadImage from None
    finally:
        _bytes -= size


def _run(function: Callable[..., T], args: tuple[Any, ...]) -> T:
    """In the process. Only the job is limited: input that was read by half would be taken for another job."""
    # Ctrl-C in a terminal goes to all; this process ends with its stdin, however the service ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.alarm(ALARM_SECONDS)
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
    except ChatError:
        raise
    except BaseException:
        os._exit(1)  # no memory left, or a mistake of ours: the next job gets a new process
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        os.dup2(answers, 1)
        os.close(answers)
        signal.alarm(0)
