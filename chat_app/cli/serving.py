"""A process that serves: its port, uvicorn, and the addresses that it prints when it is ready."""

import gc
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import uvicorn
from prometheus_client import start_http_server
from sqlalchemy import make_url

from chat_app.api.health import ending
from chat_app.api.http_protocol import KEEP_ALIVE_SECONDS, HttpProtocol
from chat_app.background import run
from chat_app.live.engine.protocol import FastProtocol
from chat_app.main import create_app
from chat_app.metrics import FOLDER, registry
from chat_app.settings import Settings

SHUTDOWN_SECONDS = 5
LARGEST_FRAME = 2 * 2**20
# A peer that acknowledges nothing for so long is disconnected, so that it does not delay the shutdown.
SILENT_MILLISECONDS = 20_000


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Objects that exist now stay, and thousands of connections do. Scanning them at every collection would cost
        # a fifth of the CPU time, in pauses of 0.1 s.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        ending.set()
        super().handle_exit(sig, frame)


def serve(settings: Settings, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until a signal ends the process."""
    config = configuration(create_app(settings))
    run(_Server(config, on_ready).serve(sockets=[listening]), config.get_loop_factory())


def configuration(app: Any) -> uvicorn.Config:
    """The configuration of uvicorn."""
    return uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http=HttpProtocol,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ws=FastProtocol,
        ws_max_size=LARGEST_FRAME,
        # Engine.IO has its own pings.
        ws_ping_interval=None,
        # Compression would cost 38 KB for each connection of a browser.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


@contextmanager
def listener(settings: Settings) -> Iterator[socket.socket]:
    """Bind the port, before anything is started that would have to be stopped again. Raises OSError.

    On the port of the metrics, if there is one, a thread answers: it outlives every worker and waits for no event loop.
    """
    address, setting = (settings.host, settings.port), "CHAT_PORT"
    try:
        family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server(address, family=family, backlog=2048)
        if settings.metrics_port:
            address, setting = (settings.host, settings.metrics_port), "CHAT_METRICS_PORT"
            start_http_server(settings.metrics_port, settings.host, registry())
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        message = f"Can't listen on {address[0]}, port {address[1]}: {reason}. Set CHAT_HOST or {setting}"
        raise OSError(message) from error
    with listening:
        # Accepted connections inherit this option. Only Linux has it.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MILLISECONDS)
        yield listening


@contextmanager
def shared_metrics(workers: int) -> Iterator[None]:
    """Give the workers that are started inside, if any, a new folder for their metrics."""
    with tempfile.TemporaryDirectory(prefix="chat-metrics-") if workers > 1 else nullcontext() as folder:
        os.environ.update({FOLDER: folder} if folder else {})
        yield


def addresses(settings: Settings) -> str:
    """The addresses of the service, its documents and its data, to print."""
    host = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host
    base = settings.public_url or f"http://{host}:{settings.port}"
    # Password and query are left out, as both may hold secrets.
    database = make_url(settings.asyncpg_url)
    place = f"{database.host}/{database.database}" if database.host else database.query.get("host")
    return (
        f"  API         {base}/api/v1\n"
        f"  Documents   {base}/docs/\n"
        f"  Events      {base}/docs/events/\n"
        f"  Database    {place}\n"
        f"  Files       {settings.media_location}"
    )
