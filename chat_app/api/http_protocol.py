"""HTTP below the application: what may be sent before a request is complete, and how long that may take.

uvicorn's parser keeps a head of any size for any time. `body_limit` bounds the size and the pace of bodies.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chat_app.api.problems import problem_response
from chat_app.api.requests import RequestLog
from chat_app.errors import ChatError, HeadersTooLarge, TooSlow

HEAD_BYTES = 32 * 1024
# For the first byte of a connection, and for a head.
HEAD_SECONDS = 10
# Longer than proxies keep their connections: else they send requests into one that is just being closed.
KEEP_ALIVE_SECONDS = 75
# A piece is small, so that few pipelined requests are parsed at once. Of tiny requests or chunks only so many are
# parsed in one iteration of the event loop.
PIECE_BYTES, STEPS = 4096, 500
LINGER_SECONDS = 5
NOTHING = memoryview(b"")


class _Transport:
    """A client that still sends would lose the answer to a reset: then `close` reads and drops the rest for a while."""

    def __init__(self, transport: asyncio.Transport, protocol: "HttpProtocol") -> None:
        self.plain, self._protocol = transport, protocol
        self._is_lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def is_closing(self) -> bool:
        return self._is_lingering or self.plain.is_closing()

    def close(self) -> None:
        cycle = self._protocol.cycle
        if cycle is None or not cycle.more_body:
            self.plain.close()
        elif not self.is_closing():
            self._is_lingering = True
            self.plain.write_eof()
            self.plain.resume_reading()
            self._protocol.loop.call_later(LINGER_SECONDS, self.plain.abort)


class _Flow(FlowControl):
    """Reads no more while input waits to be parsed, also when a request wants more of its body."""

    is_held = False

    def resume_reading(self) -> None:
        if not self.is_held:
            super().resume_reading()


class HttpProtocol(HttpToolsProtocol):
    """Counts the bytes that complete nothing: of a head, of chunk sizes with their extensions, of trailers."""

    flow: _Flow

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._input = NOTHING
        # The number of complete heads, parts of bodies and requests so far, and the bytes since the last of them.
        self._steps = self._incomplete = 0
        self._is_in_head = self._is_refused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]  # it has all that is used
        self.flow = _Flow(transport)
        self._watch(is_complete=False, is_waiting=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch(is_complete=True, is_waiting=False)
        self._input = NOTHING
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self.transport.is_closing():
            return
        self._input = memoryview(bytes(self._input) + data)
        if not self.flow.is_held:
            self._parse()

    def _parse(self) -> None:
        """Parse what was received: a part on each iteration of the event loop, and nothing while a request waits."""
        last = self._steps + STEPS
        while self._input and not self.pipeline and self._steps < last:
            self._parse_piece()
        self.flow.is_held = bool(self._input)
        if self._input:
            self.flow.pause_reading()
            if not self.pipeline:
                self.loop.call_soon(self._parse)
        elif not self.pipeline and not self._has_body_waiting():
            self.flow.resume_reading()

    def _parse_piece(self) -> None:
        steps, size = self._steps, min(PIECE_BYTES, HEAD_BYTES - self._incomplete)
        piece, self._input = self._input[:size], self._input[size:]
        super().data_received(piece)  # type: ignore[arg-type]  # the parser takes any buffer
        is_complete = self._steps > steps
        self._incomplete = 0 if is_complete else self._incomplete + len(piece)
        self._watch(is_complete, self._is_in_head or not is_complete)
        if self.transport.is_closing():
            self._input = NOTHING
        elif self._incomplete == HEAD_BYTES:
            self._refuse(HeadersTooLarge())

    def _has_body_waiting(self) -> bool:
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and len(cycle.body) > HIGH_WATER_LIMIT

    def handle_websocket_upgrade(self) -> None:
        self._input = NOTHING
        self.transport = self.transport.plain  # type: ignore[attr-defined]  # a _Transport
        super().handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._steps += 1
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._steps += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._steps += 1
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:
            self.transport.close()  # nobody reads this body, and so nobody bounds its pace
        if self.transport.is_closing():
            self._input = NOTHING
        elif self._input:
            self.loop.call_soon(self._parse)

    def _watch(self, is_complete: bool, is_waiting: bool) -> None:
        """Bound the time until the next head, part of a body or request is complete."""
        if self._timer and is_complete:
            self._timer.cancel()
            self._timer = None
        if is_waiting and not self._timer:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._time_out)

    def _time_out(self) -> None:
        self._timer = None
        if self.flow.read_paused:  # the client can't be faster
            self._watch(is_complete=False, is_waiting=True)
        elif not self.transport.is_closing():
            self._refuse(TooSlow())

    def _refuse(self, error: ChatError) -> None:
        """Put this answer, and the end of the connection, behind the answers to the requests that are complete."""
        self._is_refused, self._input = True, NOTHING
        self._watch(is_complete=True, is_waiting=False)
        cycle = self.cycle
        if cycle is not None and cycle.more_body and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
            self.cycle = None  # type: ignore[assignment]  # as before the first request
        # As a request, so that uvicorn keeps the order of the answers.
        self.app = RequestLog(lambda *call: problem_response(error, {"Connection": "close"})(*call))
        self.on_message_begin()
        self.url = b"/"
        self.on_headers_complete()
