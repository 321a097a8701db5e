"""The composition root: makes one ASGI app of HTTP and Socket.IO from the settings. Only `cli` imports it."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import socketio
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from chat_app import __version__, logs, metrics, tracing
from chat_app.api import active, attachments, auth, chats, groups, health, media, members, messages, search, users
from chat_app.api.body_limit import BodyLimit
from chat_app.api.problems import handle_errors
from chat_app.api.requests import PROBES, RequestLog
from chat_app.background import Background
from chat_app.components import Components
from chat_app.crud.outbox import Outbox
from chat_app.database import Database
from chat_app.limits import EXCHANGE_SECONDS, Limits
from chat_app.live.bus import Bus
from chat_app.live.cluster import Cluster, ClusterFanout
from chat_app.live.connections import Connections
from chat_app.live.engine.server import CHECK_SECONDS, ChatServer
from chat_app.live.fanout import Fanout
from chat_app.live.presence import OnlineUsers, Presence
from chat_app.live.server import SESSION_CHECK_SECONDS, Live
from chat_app.media.storage import Storage
from chat_app.settings import LOCAL_ORIGINS, Settings, get_settings
from chat_app.sms import CodeSender
from chat_app.web import openapi, pages

PREFIX = "/api/v1"
CLOSE_SECONDS = 2
SAMPLE_SECONDS = 0.5
# FastAPI makes a span of each request, where traces are exported, and nothing else.
TELEMETRY = TelemetryConfig(operation_spans=False, auto_configure=False, exclude=lambda scope: scope["path"] in PROBES)


@dataclass
class Node(Components):
    """Everything that one process has once, for its lifespan."""

    live: Live
    server: ChatServer
    cluster: Cluster | None

    @asynccontextmanager
    async def run(self, _api: FastAPI) -> AsyncIterator[None]:
        """The lifespan of the application: start what works in the background, and close everything at the end."""
        background = Background()
        background.spawn(self._sample())
        background.repeat(self.live.end_sessions, seconds=SESSION_CHECK_SECONDS)
        background.repeat(self.server.sweep, seconds=CHECK_SECONDS)
        if self.cluster:
            background.repeat(self.limits.exchange, seconds=EXCHANGE_SECONDS)
            await self.cluster.start()
        node = self.bus and self.bus.node
        logs.log_info("started", logs.AUDIT, version=__version__, revision=get_settings().revision, node=node)
        try:
            yield
        finally:
            # The process ends anyway, so nothing is waited for any longer.
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    parts = (background, self.outbox, self.live.presence, self.cluster)
                    for part in (*parts, self.codes, self.database, self.storage):
                        if part:
                            await part.close()
                    await tracing.close()

    async def _sample(self) -> None:
        """Measure how late the event loop is, and set the gauges of what happens at no place of its own."""
        while True:
            started = time.perf_counter()
            await asyncio.sleep(SAMPLE_SECONDS)
            metrics.loop_lag.observe(max(time.perf_counter() - started - SAMPLE_SECONDS, 0))
            metrics.connections.set(len(self.live.connections))
            metrics.bus_waiting.set(self.bus.waiting.qsize() if self.bus else 0)
            metrics.sample_process()
            self.database.sample()


def create_app(settings: Settings) -> ASGIApp:
    """The application of one process. Each line needs only what stands above it."""
    metrics.build.labels(__version__, settings.revision).set(1)
    connections = Connections()
    bus = Bus(settings.bus_url.get_secret_value()) if settings.bus_url else None
    fanout = ClusterFanout(connections, bus) if bus else Fanout(connections)
    storage = Storage(settings.media_location)
    online = OnlineUsers()
    database = Database(
        settings.asyncpg_url,
        delivery=fanout,
        remove_files=storage.delete,
        online=online,
        pool_size=settings.database_pool,
    )
    limits = Limits(
        enabled=settings.rate_limits == "on",
        client=bus.client if bus else None,
        is_up=lambda: bus is not None and bus.is_up,
    )
    outbox = Outbox(database)
    presence = Presence(online, connections, database, bus)
    cluster = Cluster(fanout, database, presence) if isinstance(fanout, ClusterFanout) else None
    live = Live(database, limits, outbox, connections, presence)
    server = ChatServer(
        live,
        connections,
        limits,
        cors_allowed_origins=_origin_check(settings),
        # Among several nodes, the requests of one polling client would go to different ones.
        transports=["websocket"] if bus else None,
    )
    codes = CodeSender(settings)
    node = Node(database, storage, limits, outbox, codes, bus, live=live, server=server, cluster=cluster)
    return _joined(server, create_api(settings, node), settings.trusted_proxies)


def _joined(server: ChatServer, api: FastAPI, trusted_proxies: list[str]) -> ASGIApp:
    # Requests of long polling have bodies too.
    sockets = SimpleNamespace(handle_request=BodyLimit(server.handle_request))
    app: Any = socketio.ASGIApp(sockets, other_asgi_app=api)
    return cast(ASGIApp, ProxyHeadersMiddleware(app, trusted_hosts=trusted_proxies) if trusted_proxies else app)


def create_api(settings: Settings, node: Node | None = None) -> FastAPI:
    """The HTTP API. Without a node it has its documents only."""
    # `pages` has our own documents and pages.
    lifespan = node.run if node else None
    api = FastAPI(openapi_url=None, docs_url=None, lifespan=lifespan, telemetry=TELEMETRY, **openapi.ABOUT)
    api.state.components = node
    handle_errors(api)
    for module in (auth, users, active, chats, groups, members, messages, search, attachments):
        api.include_router(module.router, prefix=PREFIX)
    api.include_router(groups.http_router, prefix=PREFIX)
    for module in (media, pages, health):
        api.include_router(module.router)
    if settings.metrics_port is None:
        api.include_router(health.metrics_router)
    api.mount("/docs/static", pages.STATIC)
    instrumentator = Instrumentator(should_group_status_codes=False, excluded_handlers=["/metrics"])
    instrumentator.add(metrics.count_request).instrument(api)
    api.add_middleware(BodyLimit)
    api.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_origin_regex=LOCAL_ORIGINS if settings.is_development else None,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["X-Request-ID", "Retry-After"],
    )
    api.add_middleware(RequestLog)
    openapi.customize(api)
    return api


def _origin_check(settings: Settings) -> Any:
    """A function that decides whether a page of an origin may connect. Pages of the service itself may, too."""

    def allow(origin: str | None, environ: dict[str, Any]) -> bool:
        if origin is None:  # the library asks for the headers of the answer, too
            return False
        is_local = settings.is_development and re.fullmatch(LOCAL_ORIGINS, origin)
        is_own = origin.partition("://")[2] == environ.get("HTTP_HOST")
        return bool(origin in settings.cors_origins or is_local or is_own)

    return allow
