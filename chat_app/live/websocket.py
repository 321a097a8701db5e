"""The server's end of a WebSocket, beneath uvicorn: reads frames within a budget and hands packets to the short way."""

from typing import Any, Protocol

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, apply_mask  # type: ignore[attr-defined]  # in C where that can be

from chat_app import metrics
from chat_app.live.frames import TURN_BYTES, TURN_FRAMES, Budget, Refused, find_frame
from chat_app.logs import log

# A reader that leaves so much unread is cut.
MOST_UNREAD_BYTES = 2 * 2**20
# A client that was refused has so long to read why.
LINGER_SECONDS = 2

WHOLE_TEXT, CONTROL, FINAL = 0x81, 0x08, 0x80
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Packets(Protocol):
    """What takes the packets of a connection; `is_full`: no more for now."""

    ended: Any
    is_closed: bool
    is_full: bool
    socket: Any

    def hear(self, packet: bytes) -> None: ...

    def end(self) -> None: ...


class FastProtocol(WebSocketsSansIOProtocol):
    """Reads whole text frames by itself once `line` is set; everything else the libraries read.

    They only ever get whole frames, so that none is begun by them and ended here.
    """

    # What was received and not read: a frame that is not complete, and what has to wait.
    _unread: bytes | bytearray = b""
    _is_scheduled = _is_paused = _is_refused = _is_read_paused = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.line: Packets | None = None
        self.budget = Budget()

    @property
    def read_paused(self) -> bool:
        """Whether the application has not taken the last message yet."""
        return self._is_read_paused

    @read_paused.setter
    def read_paused(self, is_paused: bool) -> None:
        self._is_read_paused = is_paused
        if not is_paused:
            self.read_on()

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            super().data_received(data)
            if not self.handshake_initiated:
                # The library refuses what uvicorn accepted, such as a long header, and would not answer.
                self.transport.write(BAD_REQUEST)
                self.transport.close()
        elif not self._is_refused:
            self._keep(data)
            if self._is_scheduled:
                self._pause()
            else:
                self._read()

    def _keep(self, data: bytes) -> None:
        if not self._unread:
            self._unread = data
            return
        # Grows in place: joined anew at each read, a long frame in short reads would be copied every time.
        if not isinstance(self._unread, bytearray):
            self._unread = bytearray(self._unread)
        self._unread += data

    def read_on(self) -> None:
        """Go on with what waits, on the next iteration of the event loop."""
        if (self._unread or self._is_paused) and not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon(self._read)

    def _read(self) -> None:
        """Read a part of what was received; the rest follows when others have had their turn."""
        self._is_scheduled = False
        if self.transport.is_closing() or self._is_refused:
            self._unread = b""
            return
        try:
            frames, size, is_held = self._read_frames(self._unread)
            wait = self.budget.spend(frames, size)
        except Refused as refusal:
            self.refuse(refusal.code)
            return
        if size:
            self._unread = self._unread[size:] or b""
        has_more = bool(self._unread) and (frames == TURN_FRAMES or size >= TURN_BYTES)
        if wait:
            self._pause()
            self._is_scheduled = True
            self.loop.call_later(wait, self._read)
        elif is_held or has_more:
            self._pause()
        elif self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()
        if has_more and not is_held:
            self.read_on()

    def _pause(self) -> None:
        self._is_paused = True
        self.transport.pause_reading()

    def _read_frames(self, data: bytes | bytearray) -> tuple[int, int, bool]:
        """Hand frames over: how many, their bytes, and whether the next one has to wait. Raises Refused."""
        frames = start = 0
        is_over = False
        while not (is_held := is_over or self._is_held()) and frames < TURN_FRAMES and start < TURN_BYTES:
            bounds = find_frame(data, start)
            if bounds is None:
                break
            body, end = bounds
            if self.line is not None and data[start] == WHOLE_TEXT and not self.budget.fragments:
                self.line.hear(apply_mask(data[body:end], data[body - 4 : body]))
            else:
                if data[start] & 0x0F < CONTROL:
                    self.budget.add_fragment(end - body, is_last=bool(data[start] & FINAL))
                super().data_received(bytes(data[start:end]))
                is_over = self.transport.is_closing()
            frames, start = frames + 1, end
        return frames, start, is_held

    def _is_held(self) -> bool:
        """Whether what was read has to be taken first."""
        if self.line is not None:
            return self.line.is_full
        return not self.handshake_complete or self.read_paused

    def refuse(self, code: CloseCode) -> None:
        """Close with this code."""
        if self.transport.is_closing():
            return
        reason = "flood" if code is CloseCode.POLICY_VIOLATION else "malformed"
        metrics.cut.labels(reason).inc()
        log.warning("connection cut", reason=reason, code=code.value, connection=self.line and self.line.socket.sid)
        self._is_refused, self._unread = True, b""
        if self.line is not None:
            self.line.is_closed = True
        if not self.close_sent:
            self.conn.send_close(code)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code.value})
        # Closed at once, with bytes unread, the connection would be reset and the code lost.
        self.close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        self.transport.pause_reading()

    async def send(self, message: Any) -> None:
        await super().send(message)
        self.read_on()

    def handle_ping(self) -> None:
        super().handle_ping()
        # The answers to pings pile up where nobody reads them.
        if self.transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            metrics.cut.labels("slow").inc()
            self.transport.abort()

    def send_receive_event_to_app(self) -> None:
        whole = b"".join(self.frames)
        is_text = self.curr_msg_data_type == "text"
        if self.line is not None:
            self.frames = []
            if is_text:
                self.line.hear(whole)
            return
        try:
            if is_text:
                whole.decode()  # uvicorn would log what was sent
        except UnicodeDecodeError:
            raise Refused(CloseCode.INVALID_DATA) from None
        super().send_receive_event_to_app()

    def shutdown(self) -> None:
        if self.line is None or self.line.ended:
            super().shutdown()
        else:
            self.line.end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.line is not None:
            self.line.is_closed = True
        super().connection_lost(exc)
