"""Several processes on one port: started, watched, started again, and ended together."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from signal import SIGTERM

from chat_app.logs import log
from chat_app.settings import Settings

# A process needs five seconds to end in order, and somebody waits for ten.
END_SECONDS = 8
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0
# What has run for so long did not fail at its start.
STEADY_SECONDS = 30


class WorkerFailed(Exception):
    """A worker ended before it was ready; its log says why."""


class _Worker:
    def __init__(self, listening: socket.socket, environment: Mapping[str, str]) -> None:
        self._listening = listening.fileno()
        self._environment = environment
        self._pause = FIRST_PAUSE_SECONDS
        self._start_at = 0.0
        self.start()

    def start(self) -> None:
        self._ready, ready = os.pipe()
        command = [sys.executable, "-m", "chat_app", "worker", str(self._listening), str(ready)]
        # Ctrl-C is for the parent alone; the input ends when the parent does.
        self.process = subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.PIPE,
            pass_fds=[self._listening, ready],
            start_new_session=True,
        )
        os.close(ready)
        self._started_at = time.monotonic()

    def wait_until_ready(self) -> None:
        """Raises WorkerFailed."""
        if not os.read(self._ready, 1):
            raise WorkerFailed("A worker ended before it was ready; the log says why")

    def keep_alive(self) -> None:
        """Start it again if it has ended: soon at first, later if that does not help."""
        now = time.monotonic()
        if self.process.poll() is None:
            return
        if self._start_at == 0:
            self._pause = FIRST_PAUSE_SECONDS if now - self._started_at > STEADY_SECONDS else self._pause
            self._start_at = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            log.error("worker ended", status=self.process.returncode)
        elif now >= self._start_at:
            self._start_at = 0
            self._close()
            self.start()

    def end(self, deadline: float) -> None:
        try:
            self.process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        os.close(self._ready)


def serve(count: int, settings: Settings, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Run so many workers until a signal, as SystemExit, ends them. Raises WorkerFailed."""
    assert settings.database_url and settings.bus_url
    # All that was set goes on to them, with what this process has decided: not read here, but handed over.
    environment = os.environ | {
        "CHAT_HOST": settings.host,
        "CHAT_PORT": str(settings.port),
        "CHAT_DATABASE_URL": settings.database_url.get_secret_value(),
        "CHAT_BUS_URL": settings.bus_url.get_secret_value(),
    }
    workers: list[_Worker] = []
    try:
        workers += [_Worker(listening, environment) for _ in range(count)]
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
            worker.end(deadline)


def report_ready(ready: int) -> None:
    """In a worker: tell the parent, who may not be listening any more."""
    with suppress(OSError):
        os.write(ready, b"1")
    os.close(ready)


def end_with_parent() -> None:
    """In a worker: end in order when the parent is gone, however it ended."""

    def watch() -> None:
        with suppress(OSError):
            os.read(0, 1)
        os.kill(os.getpid(), SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
