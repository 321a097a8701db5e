"""Refuses bodies that are too large or too slow, by their size and pace alone."""

import asyncio
import time
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat_app.api.problems import problem_response
from chat_app.errors import ChatError, TooLarge, TooSlow

# By the end of the path: of the users' pictures and of those of groups.
LIMITS = {("POST", "attachments"): 30 * 2**20, ("PUT", "avatar"): 16 * 2**20}
OTHER = 2**20
# A body may pause for so long, and needs so many bytes a second on average.
PATIENCE_SECONDS = 10
SLOWEST = 8 * 1024


class BodyLimit:
    """ASGI middleware: 413 by the announced length or by counting, 408 for a slow body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(scope, receive, send)
        with suppress(ChatError):
            body.check(body.announced)
            await self.app(scope, body.receive, body.send)
        # The refusal is the answer, not what the application answers to a body that broke off.
        if body.refusal and not body.is_answered:
            await problem_response(body.refusal, {"Connection": "close"})(scope, receive, send)


class _Body:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self.limit = LIMITS.get((scope["method"], scope["path"].rpartition("/")[2]), OTHER)
        self.announced = int(headers.get("content-length", 0))
        self.is_complete = not self.announced and "transfer-encoding" not in headers
        self.is_answered = False
        self.refusal: ChatError | None = None
        self._received = 0
        self._started = time.monotonic()
        self._receive, self._send = receive, send

    def check(self, size: int) -> None:
        if size > self.limit:
            self.refusal = TooLarge()
            raise self.refusal

    async def receive(self) -> Message:
        if self.is_complete:
            return await self._receive()
        on_average = self._started + self._received / SLOWEST - time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS + min(0, on_average)):
                message = await self._receive()
        except TimeoutError:
            self.refusal = TooSlow()
            raise self.refusal from None
        self._received += len(message.get("body", b""))
        self.is_complete = not message.get("more_body", False)
        self.check(self._received)
        return message

    async def send(self, message: Message) -> None:
        if self.refusal:
            return
        self.is_answered = True
        if not self.is_complete and message["type"] == "http.response.start":
            # The protocol lets the client read the answer before it closes.
            MutableHeaders(scope=message)["Connection"] = "close"
        await self._send(message)
