"""The process that serves: the port, the signals that end it, uvicorn, and what it prints when it is ready."""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from sqlalchemy import make_url

from chat_app.background import run
from chat_app.settings import Settings

SHUTDOWN_SECONDS = 5
LARGEST_FRAME = 2 * 2**20
# A peer that acknowledges nothing for so long is gone: it is cut, and does not hold up the end of the process.
SILENT_MILLISECONDS = 20_000


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], on_end: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_end = on_end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is there by now stays, and thousands of connections do: looking through them again and again would cost
        # a fifth of all time, in pauses of a tenth of a second.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_end()
        super().handle_exit(sig, frame)


def serve(app: Any, listening: socket.socket, on_ready: Callable[[], None], on_end: Callable[[], None]) -> None:
    """Answer requests until a signal ends the process; `on_end` is called within its handler."""
    config = configuration(app)
    run(_Server(config, on_ready, on_end).serve(sockets=[listening]), config.get_loop_factory())


def configuration(app: Any, **options: Any) -> uvicorn.Config:
    """How uvicorn serves this app."""
    # They read the settings when they are imported, and those have to be checked before.
    from chat_app.api.http_protocol import KEEP_ALIVE_SECONDS, HttpProtocol
    from chat_app.live.websocket import FastProtocol

    return uvicorn.Config(
        app,
        **{
            "lifespan": "on",
            "log_config": None,
            "access_log": False,
            "server_header": False,
            "proxy_headers": False,
            "http": HttpProtocol,
            "timeout_keep_alive": KEEP_ALIVE_SECONDS,
            "ws": FastProtocol,
            "ws_max_size": LARGEST_FRAME,
            # Engine.IO has pings of its own.
            "ws_ping_interval": None,
            # It would cost 38 KB for each connection that a browser opens.
            "ws_per_message_deflate": False,
            "timeout_graceful_shutdown": SHUTDOWN_SECONDS,
            **options,
        },
    )


@contextmanager
def listener(settings: Settings) -> Iterator[socket.socket]:
    """Take the port, before anything is started that would have to be stopped again. Raises OSError."""
    where = (settings.host, settings.port)
    try:
        family = socket.getaddrinfo(*where, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server(where, family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        message = f"Can't listen on {settings.host}, port {settings.port}: {reason}. Set CHAT_HOST or CHAT_PORT"
        raise OSError(message) from error
    with listening:
        # The accepted connections inherit it. Only Linux has it.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MILLISECONDS)
        yield listening


def end_on_signals(status: int) -> None:
    """Let the first signal end the process in order, by SystemExit or CancelledError, and nothing disturb that."""

    def end(_signal: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise SystemExit(status) from None
        # What is raised here would come up wherever the loop is, and native code there does not survive that.
        for task in asyncio.all_tasks(loop):
            loop.call_soon_threadsafe(task.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    # A closed terminal ends it too, unless it was started with nohup.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _signal, _frame: signal.raise_signal(signal.SIGTERM))


def addresses(settings: Settings) -> str:
    """Where the service, its documents and its data are, for people."""
    base = settings.base_url or f"http://{settings.host}:{settings.port}"
    # Neither the password nor the query, which may hold one too.
    database = make_url(settings.asyncpg_url)
    place = f"{database.host}/{database.database}" if database.host else database.query.get("host")
    return (
        f"  API         {base}/api/v1\n"
        f"  Documents   {base}/docs/\n"
        f"  Events      {base}/docs/events/\n"
        f"  Database    {place}\n"
        f"  Files       {settings.media_location}"
    )
