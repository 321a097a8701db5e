"""Sends codes to phones: by an HTTP gateway, or in development to the log."""

import asyncio

import httpx

from chat_app import metrics
from chat_app.background import Background
from chat_app.errors import Unavailable
from chat_app.logs import log
from chat_app.settings import Settings

TRIES = 3
TIMEOUT_SECONDS = 5.0


class CodeSender:
    """Sends in the background: the answer takes as long for a number without an account."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.sms_url.get_secret_value() if settings.sms_url else None
        self._to_log = self._url is None and settings.is_development
        self._client = httpx.AsyncClient(timeout=TIMEOUT_SECONDS)
        self._sending = Background()

    def check(self) -> None:
        """Raises Unavailable where codes can't be sent: without a gateway they must not get into a production log."""
        if self._url is None and not self._to_log:
            raise Unavailable("Sending codes is not configured.", retry_after=3600)

    def send(self, phone: str, digits: str) -> None:
        """Send a code. Failures are logged, without the number and the code."""
        if self._to_log:
            log.warning("one-time code", phone=phone, code=digits)
            return
        self._sending.spawn(self._send(phone, digits))

    async def _send(self, phone: str, digits: str) -> None:
        assert self._url is not None
        for attempt in range(1, TRIES + 1):
            try:
                response = await self._client.post(
                    self._url, json={"phone": phone, "code": digits, "text": f"Your code: {digits}"}
                )
                response.raise_for_status()
                log.info("code sent", attempt=attempt)
                metrics.sms.labels("sent").inc()
                return
            except httpx.HTTPError as error:
                log.warning("code not sent", attempt=attempt, error=type(error).__name__)
                await asyncio.sleep(attempt)
        log.error("code given up")
        metrics.sms.labels("failed").inc()

    async def close(self) -> None:
        """Wait for the codes that are under way."""
        await self._sending.finish()
        await self._client.aclose()
