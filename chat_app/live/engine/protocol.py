"""The server's end of a WebSocket, beneath uvicorn: reads frames in a budget, for the fast path or the libraries."""

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, apply_mask  # type: ignore[attr-defined]  # in C where that can be

from chat_app import metrics
from chat_app.live.engine.frames import TURN_BYTES, TURN_FRAMES, Budget, Refused, find_frame
from chat_app.logs import log

if TYPE_CHECKING:  # it is the other end of this protocol
    from chat_app.live.engine.fast_socket import FastSocket

# A reader that leaves so much unread is cut.
MOST_UNREAD_BYTES = 2 * 2**20
# A client that was refused has so long to read why.
LINGER_SECONDS = 2

WHOLE_TEXT, CONTROL, FINAL = 0x81, 0x08, 0x80
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class FastProtocol(WebSocketsSansIOProtocol):
    """Reads whole text frames by itself once `fast` is set; everything else the libraries read.

    They only ever get whole frames, so that none is begun by them and ended here.
    """

    _is_scheduled = _is_refused = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fast: FastSocket | None = None
        self.budget = Budget()
        # Received and not read: an incomplete frame, and frames that have to wait.
        self._unread = bytearray()

    def attach(self, fast: "FastSocket") -> None:
        """Pass packets to the fast path from here on, and drop the handshake."""
        self.fast = fast
        self.scope["headers"] = []
        del self.request, self.response

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            super().data_received(data)
            if not self.handshake_initiated:
                # The library refuses what uvicorn accepted, such as a long header, and would not answer.
                self.transport.write(BAD_REQUEST)
                self.transport.close()
        elif not self._is_refused:
            self._unread += data
            if self._is_scheduled:
                self.transport.pause_reading()
            else:
                self._read()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is sent."""
        return self.close_sent or self.transport.is_closing()

    def read_on(self) -> None:
        """Go on with what waits, on the next iteration of the event loop."""
        if not self._is_scheduled and (self._unread or not self.transport.is_reading()):
            self._is_scheduled = True
            self.loop.call_soon(self._read)

    def _read(self) -> None:
        """Read a part of what was received; the rest follows on the next iteration of the event loop."""
        self._is_scheduled = False
        if self.transport.is_closing() or self._is_refused:
            self._unread.clear()
            return
        try:
            frames, size, is_held = self._read_frames(self._unread)
            wait = self.budget.spend(frames, size, self._is_logged_in)
        except Refused as refusal:
            self.refuse(refusal.code)
            return
        del self._unread[:size]
        has_more = bool(self._unread) and (frames == TURN_FRAMES or size >= TURN_BYTES)
        if wait or is_held or has_more:
            self.transport.pause_reading()
        elif not self.transport.is_reading():
            self.transport.resume_reading()
        if wait:
            self._is_scheduled = True
            self.loop.call_later(wait, self._read)
        elif has_more and not is_held:
            self.read_on()

    def _is_logged_in(self) -> bool:
        return self.fast is not None and self.fast.server.connections.get(self.fast.socket.sid) is not None

    def _read_frames(self, data: bytearray) -> tuple[int, int, bool]:
        """Hand frames over: how many, their bytes, and whether the next one has to wait. Raises Refused."""
        frames = start = 0
        is_over = False
        while not (is_held := is_over or self._is_held()) and frames < TURN_FRAMES and start < TURN_BYTES:
            bounds = find_frame(data, start)
            if bounds is None:
                break
            body, end = bounds
            if self.fast is not None and data[start] == WHOLE_TEXT and not self.budget.fragments:
                self.fast.receive(apply_mask(data[body:end], data[body - 4 : body]))
            else:
                if data[start] & 0x0F < CONTROL:
                    self.budget.add_fragment(end - body, is_last=bool(data[start] & FINAL))
                super().data_received(bytes(data[start:end]))
                is_over = self.transport.is_closing()
            frames, start = frames + 1, end
        return frames, start, is_held

    def _is_held(self) -> bool:
        """Whether what was read has to be worked off first."""
        if self.fast is not None:
            return self.fast.is_full
        return not self.handshake_complete or self.read_paused

    def refuse(self, code: CloseCode) -> None:
        """Close with this code."""
        if self.transport.is_closing():
            return
        self._log_cut("flood" if code is CloseCode.POLICY_VIOLATION else "malformed", code=code.value)
        self._is_refused = True
        self._unread.clear()
        if not self.close_sent:
            self.conn.send_close(code)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code.value})
        # Closed at once, with bytes unread, the connection would be reset and the code lost.
        self.close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        self.transport.pause_reading()

    def cut(self) -> None:
        """End the connection of a client that does not read, and so would not see why."""
        self._log_cut("slow")
        self.transport.abort()

    def _log_cut(self, reason: str, **values: int) -> None:
        metrics.cut.labels(reason).inc()
        log.warning("connection cut", reason=reason, connection=self.fast and self.fast.socket.sid, **values)

    async def receive(self) -> Any:
        self.read_on()
        return await super().receive()

    def handle_ping(self) -> None:
        super().handle_ping()
        # A client that does not read lets the answers to its pings pile up.
        if self.transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            self.cut()

    def send_receive_event_to_app(self) -> None:
        whole = b"".join(self.frames) if self.curr_msg_data_type == "text" else None
        if self.fast is None:
            try:
                (whole or b"").decode()  # uvicorn would log it with a traceback
            except UnicodeDecodeError:
                raise Refused(CloseCode.INVALID_DATA) from None
            super().send_receive_event_to_app()
            return
        self.frames = []
        if whole is not None:
            self.fast.receive(whole)

    def shutdown(self) -> None:
        if self.fast is None or self.fast.is_draining:
            super().shutdown()
        else:
            self.fast.drain()
