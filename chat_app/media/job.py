"""One job in a worker process. That imports this module and what the job needs, but not the service."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from chat_app.errors import ChatError

T = TypeVar("T")

# CPU time, so that a busy machine does not refuse pictures.
PROCESSOR_SECONDS = 2.0
# The service kills a job earlier. This is for a job that outlives the service.
ALARM_SECONDS = 140
MEMORY_BYTES = 1 << 30
NICENESS = 10


class Large(Exception):
    """Raised by a function that wants to be called again with `is_large=True`, one at a time."""


def run_job(function: Callable[..., T], args: tuple[Any, ...]) -> T:
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
