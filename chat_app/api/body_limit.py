"""Refuses bodies that are too large or hardly arrive, by their size alone."""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat_app.api.problems import problem_response
from chat_app.errors import ChatError, TooLarge, Unavailable

LIMITS = {("POST", "/api/v1/attachments"): 30 * 2**20, ("PUT", "/api/v1/users/me/avatar"): 16 * 2**20}
OTHER = 2**20
# A body may pause for so long, and must be faster than so many bytes a second on the whole.
PATIENCE_SECONDS = 30
SLOWEST = 8000


class BodyLimit:
    """ASGI middleware: 413 by the announced length or by counting, 503 for a body that stops arriving."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(LIMITS.get((scope["method"], scope["path"]), OTHER), receive, send)
        try:
            body.count(int(Headers(scope=scope).get("content-length", 0)))
            body.received = 0
            await self.app(scope, body.receive, body.send)
        except ChatError as error:
            if error is not body.refusal:
                raise
        if body.refusal and not body.is_answered:
            # What is left of the body is not read, so the connection can't go on.
            response = problem_response(body.refusal, {"Connection": "close"})
            await response(scope, receive, send)


class _Body:
    def __init__(self, limit: int, receive: Receive, send: Send) -> None:
        self.limit, self._receive, self._send = limit, receive, send
        self.received = 0
        self.started = time.monotonic()
        self.is_complete = self.is_answered = False
        self.refusal: ChatError | None = None

    def count(self, size: int) -> None:
        self.received += size
        if self.received > self.limit:
            self.refusal = TooLarge()
            raise self.refusal

    async def receive(self) -> Message:
        if self.is_complete:
            return await self._receive()
        deadline = self.started + PATIENCE_SECONDS + self.received / SLOWEST
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            self.refusal = Unavailable("The body stopped arriving.")
            raise self.refusal from None
        self.count(len(message.get("body", b"")))
        self.is_complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        # Whatever the program makes of a body that broke off, the refusal is the answer.
        if self.refusal is None:
            self.is_answered = True
            await self._send(message)
