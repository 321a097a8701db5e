"""Gives every request an id, its log lines, and an answer even after a crash."""

import asyncio
import re
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat_app import logs, tracing
from chat_app.api.problems import problem_response
from chat_app.errors import Unavailable
from chat_app.limits import address_of

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# A client may put a phone number or the like into a path by mistake.
PLAIN_PART = re.compile(r"[a-z._-]{0,40}|v[0-9]|[0-9]{1,6}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PROBES = ("/healthz", "/readyz", "/metrics")


class RequestLog:
    """Plain ASGI middleware: `X-Request-ID` comes in or is made, is in every log line, and goes out.

    Responses get no-store, DENY and nosniff unless they set these headers themselves.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, given = time.perf_counter(), Headers(scope=scope)
        request_id = logs.new_request_id(given.get("x-request-id"))
        name = logs.PROBES if scope["path"] in PROBES else logs.SERVICE
        logs.bind_request(request_id=request_id, method=scope["method"])
        client = {"path": _plain(scope["path"]), **logs.client(address_of(scope), given.get("user-agent"))}
        answer: MutableMapping[str, Any] = {}

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.update(message)
                tracing.describe_request(request_id, logs.context().get("code", "ok"))
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for header, value in SAFE_HEADERS.items():
                    headers.setdefault(header, value)
            await send(message)

        logs.log_info("received", name, **client)
        try:
            await self.app(scope, receive, send_with_id)
        except (Exception, asyncio.CancelledError) as error:
            # A cancelled request has outlasted the shutdown. Without this answer uvicorn would send a 500 of its own.
            problem = Unavailable() if isinstance(error, asyncio.CancelledError) else logs.as_chat_error(error)
            if not answer:
                await problem_response(problem)(scope, receive, send_with_id)
        milliseconds = round((time.perf_counter() - started) * 1000, 1)
        # The route of an included router lacks the prefixes.
        route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
        about = {"status": answer.get("status"), "route": getattr(route, "path", None), "ms": milliseconds}
        logs.log_answered(logs.context() | about, client, name)


def _plain(path: str) -> str:
    return "/".join(part if PLAIN_PART.fullmatch(part) else "…" for part in path.split("/"))
