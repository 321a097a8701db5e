"""How a process of the command line ends: by a signal, with a status, or with a line that explains a fault."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import asyncpg
from sqlalchemy.exc import DBAPIError

from chat_app import logs
from chat_app.addresses import database_fault
from chat_app.errors import ChatError


class Refusal(Exception):
    """A command can't do its work here. The text says why and what to do."""


def run_and_exit(work: Callable[[], object], *, status_on_signal: int) -> NoReturn:
    """Run the work of this process and end it. Faults of its environment become a line on stderr and status 1."""
    end_on_signals(status_on_signal)
    status: str | int | None = 0
    try:
        work()
    except SystemExit as end:
        status = end.code
    except asyncio.CancelledError:
        status = status_on_signal
    except (asyncpg.PostgresError, DBAPIError) as error:
        status = database_fault(error)
    except (Refusal, ChatError, OSError) as error:
        status = str(error) or repr(error)
    with suppress(OSError):
        if isinstance(status, str):
            logs.log_fault(status)
        sys.stdout.flush()
        sys.stderr.flush()
    # A thread of the file storage that still works would make an ordinary exit abort.
    os._exit(1 if isinstance(status, str) else status or 0)


def end_on_signals(status: int) -> None:
    """Let the first signal end the process by SystemExit or CancelledError. Later signals are ignored."""

    def end(_signal: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise SystemExit(status) from None
        # An exception raised here could surface in native code, which does not survive it.
        for task in asyncio.all_tasks(loop):
            loop.call_soon_threadsafe(task.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    # A closed terminal ends the process too, unless it was started with nohup.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _signal, _frame: signal.raise_signal(signal.SIGTERM))
