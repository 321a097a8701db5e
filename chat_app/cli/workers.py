"""Several processes on one port: started, watched, restarted, and ended together.

uvicorn's supervisor would need more code than this. It restarts workers without a pause and on SIGHUP, waits for ever
at the end, and kills a worker that does not answer for five seconds.
"""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

from prometheus_client.multiprocess import mark_process_dead

from chat_app import logs, tracing
from chat_app.cli.process import Refusal, run_and_exit
from chat_app.cli.serving import serve
from chat_app.settings import Settings, use_settings

# A process needs five seconds to shut down, and supervisors usually kill after ten.
END_SECONDS = 8
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0
# A worker that ran for so long did not fail at its start.
STEADY_SECONDS = 30

spawn = multiprocessing.get_context("spawn")


class _Worker:
    def __init__(self, number: int, settings: Settings, listening: socket.socket) -> None:
        # The files of its metrics have this name.
        self._name = str(number)
        self._arguments = (settings, listening)
        self._pause = FIRST_PAUSE_SECONDS
        self._start_at: float | None = None
        self.start()

    def start(self) -> None:
        self._ready, ready = spawn.Pipe(duplex=False)
        self.process = spawn.Process(target=_work, args=(*self._arguments, ready), name=self._name)
        self.process.start()
        ready.close()
        self._started_at = time.monotonic()

    def wait_until_ready(self) -> None:
        """Raises Refusal if it ends before."""
        try:
            self._ready.recv_bytes()
        except EOFError:
            raise Refusal("A worker ended before it was ready. The log says why.") from None

    def keep_alive(self) -> None:
        """Restart it if it has ended, with a longer pause after each failure."""
        now = time.monotonic()
        if self._start_at is not None:
            if now >= self._start_at:
                self._start_at = None
                self.start()
        elif not self.process.is_alive():
            if now - self._started_at > STEADY_SECONDS:
                self._pause = FIRST_PAUSE_SECONDS
            self._start_at = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            logs.log.error("worker ended", status=self.process.exitcode)
            mark_process_dead(self._name)  # type: ignore[no-untyped-call]  # the library is not typed here


def supervise(count: int, settings: Settings, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Run workers until a signal, as SystemExit, ends them. Raises Refusal if one can't start."""
    workers: list[_Worker] = []
    try:
        workers.extend(_Worker(number, settings, listening) for number in range(count))
        for worker in workers:
            worker.wait_until_ready()
        on_ready()
        while True:
            time.sleep(0.1)
            for worker in workers:
                worker.keep_alive()
    finally:
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + END_SECONDS
        for worker in workers:
            worker.process.join(max(0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()


def _work(settings: Settings, listening: socket.socket, ready: Connection) -> None:
    """The main function of a worker process."""
    # In a session of its own, Ctrl-C of the terminal reaches the parent alone.
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_settings(settings)
    logs.configure(settings.log_level, settings.log_format, settings.log_lines)
    tracing.configure()
    run_and_exit(partial(serve, settings, listening, partial(ready.send_bytes, b"ready")), status_on_signal=0)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
