"""HTTP below the application: what may be sent before a request is complete, and how long that may take.

uvicorn's parser keeps whatever a head holds, for any time. The pace and the size of bodies are `body_limit`'s.
"""

import asyncio
from typing import Any

import orjson
from starlette.responses import Response
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chat_app.errors import ChatError, HeadersTooLarge, TooSlow
from chat_app.logs import log, new_request_id

HEAD_BYTES = 32 * 1024
# For the first byte of a connection, and for a head.
HEAD_SECONDS = 10
# Longer than proxies keep their connections: else they send requests into one that is just being closed.
KEEP_ALIVE_SECONDS = 75
# A piece is small, so that few pipelined requests are parsed at once. Of tiny requests or chunks only so many are
# parsed in one iteration of the event loop.
PIECE_BYTES, STEPS = 4096, 500
# A client that still sends would lose the answer if the connection was closed at once.
LINGER_SECONDS, LINGER_BYTES = 2, 2**20

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NOTHING = memoryview(b"")


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
        # How many heads, parts of bodies and requests were complete so far, and the bytes since the last of them.
        self._steps = self._incomplete = 0
        self._is_in_head = False
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: ChatError | None = None
        self._is_lingering = False
        self._dropped = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._input = NOTHING
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal or self._is_lingering:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.abort()
            return
        self._input = memoryview(bytes(self._input) + data)
        if not self.flow.is_held:
            self._parse()

    def _parse(self) -> None:
        """Parse what was received: a part on each iteration of the event loop, and nothing while a request waits."""
        last = self._steps + STEPS
        while self._input and not self.pipeline and self._steps < last:
            self._parse_piece()
        if self._refusal or self.transport.is_closing():
            return
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
        if self.transport.is_closing():
            self._input = NOTHING
            return
        is_complete = self._steps > steps
        self._incomplete = 0 if is_complete else self._incomplete + len(piece)
        if is_complete:
            self._stop_timer()
        if self._incomplete == HEAD_BYTES:
            self._refuse(HeadersTooLarge())
        elif self._is_in_head or not is_complete:
            self._start_timer()

    def _has_body_waiting(self) -> bool:
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and len(cycle.body) > HIGH_WATER_LIMIT

    def handle_websocket_upgrade(self) -> None:
        self._input = NOTHING
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
        if self.transport.is_closing():
            self._input = NOTHING
        elif self._refusal and not self.pipeline:
            self._refuse(self._refusal)
        elif self.cycle.response_complete and self.cycle.more_body:
            self._linger()  # nobody reads this body, and so nobody bounds its pace
        elif self._input:
            self.loop.call_soon(self._parse)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._timer = None
        if self.flow.read_paused:  # the client can't be faster
            self._start_timer()
        elif not self.transport.is_closing():
            self._refuse(TooSlow())

    def _refuse(self, error: ChatError) -> None:
        """Close the connection with this answer. Before it come the answers to requests that are complete."""
        self._refusal, self._input = error, NOTHING
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                self.flow.is_held = True
                self.flow.pause_reading()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self._answer(error)
        self._linger()

    def _linger(self) -> None:
        self._is_lingering, self._input = True, NOTHING
        self._stop_timer()
        self.transport.write_eof()
        self.flow.is_held = False
        self.flow.resume_reading()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _answer(self, error: ChatError) -> None:
        request_id = new_request_id()
        log.info("refused", code=error.code, request_id=request_id)
        headers = SAFE_HEADERS | {"X-Request-ID": request_id, "Connection": "close"}
        problem = orjson.dumps(error.problem(request_id))
        response = Response(problem, error.status, headers, media_type="application/problem+json")
        lines = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *response.raw_headers)]
        self.transport.write(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", problem]))
