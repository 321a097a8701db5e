"""The short way between a WebSocket and the commands and events, beneath uvicorn and python-engineio.

Why: their way costs two tasks and two timers for each packet that comes, and a queue, a task, an encoding and a frame
for each recipient of one that goes: three quarters of all that a message costs. Here a frame that comes is handed over
as it is read, one that goes is framed once for all, and what one commit sends to a connection is one write.

Handshake, authentication, polling and every packet that is no event stay with the libraries. Where this module does not
fit, because the server is another one or a version changed, connections go the long way, with the same outcome.
"""

import asyncio
import time
from collections import deque
from typing import Any, Protocol

from engineio.exceptions import SocketIsClosedError, UnknownPacketError
from engineio.packet import CLOSE, NOOP, PING
from engineio.packet import Packet as EnginePacket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, apply_mask  # type: ignore[attr-defined]  # in C where that can be

from chat_app import metrics
from chat_app.live.connections import Packet, frame
from chat_app.logs import log, log_crash

# A text as long as it may be, each character escaped, is far below.
MOST_PACKET_BYTES = 256 * 1024
# A reader that leaves so much unread is cut, as is one that takes nothing for so long.
MOST_UNREAD_BYTES = 2 * 2**20
STALLED_SECONDS = 15
MOST_WAITING_PACKETS = 64

TEXT, WHOLE_TEXT, CONTROL, MASKED = 0x01, 0x81, 0x08, 0x80
# The types of Engine.IO packets that a client may send.
ENGINE_TYPES = b"0123456"


class LeanProtocol(WebSocketsSansIOProtocol):
    """Reads whole text frames by itself once `line` is set; everything else the libraries read.

    They only ever get whole frames, so that none is begun by them and ended here.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.line: Line | None = None
        self.partial = b""
        self.is_fragmented = False

    def data_received(self, data: bytes) -> None:
        if not self.handshake_complete:
            super().data_received(data)
            return
        data = self.partial + data if self.partial else data
        start = 0
        while (bounds := _bounds(data, start)) is not None:
            body, end = bounds
            if body == end == start:
                # Nothing more is read, so nobody waits for the end of it.
                self.conn.send_close(CloseCode.MESSAGE_TOO_BIG)
                self.transport.write(b"".join(self.conn.data_to_send()))
                self.transport.close()
                return
            if end > len(data):
                break
            if self.line and data[start] == WHOLE_TEXT and not self.is_fragmented:
                self.line.hear(apply_mask(data[body:end], data[body - 4 : body]))
            else:
                opcode, is_last = data[start] & 0x0F, data[start] & 0x80
                self.is_fragmented = not is_last if opcode < CONTROL else self.is_fragmented
                super().data_received(data[start:end])
            start = end
        self.partial = data[start:]

    def send_receive_event_to_app(self) -> None:
        if self.line is None:
            super().send_receive_event_to_app()
            return
        whole, self.frames = b"".join(self.frames), []
        if self.curr_msg_data_type == "text":
            self.line.hear(whole)

    def shutdown(self) -> None:
        if self.line is None or self.line.ended:
            super().shutdown()
        else:
            self.line.end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.line is not None:
            self.line.is_closed = True
        super().connection_lost(exc)


def _bounds(data: bytes, start: int) -> tuple[int, int] | None:
    """Where the payload of a frame begins and ends; None if that can't be told yet, twice `start` if it is refused."""
    if len(data) - start < 2:
        return None
    length, head = data[start + 1] & 0x7F, 6
    if length == 126:
        length, head = int.from_bytes(data[start + 2 : start + 4], "big"), 8
    elif length == 127:
        length, head = int.from_bytes(data[start + 2 : start + 10], "big"), 14
    if len(data) - start < head and data[start + 1] & MASKED:
        return None
    # Only a client that breaks the protocol does not mask.
    if length > MOST_PACKET_BYTES or not data[start + 1] & MASKED:
        return start, start
    return start + head, start + head + length


class Server(Protocol):
    """What a line needs of the Socket.IO server."""

    def take(self, line: "Line", packet: bytes) -> bool:
        """Begin with an event whose answer comes by `line.answer`; false if it has to go the long way."""

    def will_flush(self, line: "Line") -> None:
        """See that `line.flush` is called soon."""

    def will_shut_down(self, line: "Line") -> None:
        """Shut down the protocol of this line once all lines have ended."""


class Line:
    """One connection that goes the short way. It stands in for the queue of its Engine.IO socket."""

    __slots__ = (
        *("_inbox", "_is_busy", "ended", "frames", "heard_at", "is_closed", "protocol", "server", "socket"),
        "stalled",
    )

    def __init__(self, server: Server, socket: Any, protocol: LeanProtocol) -> None:
        self.server = server
        self.socket = socket
        self.protocol = protocol
        self.frames: list[bytes] = []
        self.is_closed = False
        # At the end of the process: set when the command under way is answered.
        self.ended: asyncio.Event | None = None
        self.heard_at = time.monotonic()
        # How much was unread at the last look, and since when it does not get less.
        self.stalled = (0, 0.0)
        self._inbox: deque[bytes] | None = None
        self._is_busy = False

    # Out

    def write(self, framed: bytes) -> None:
        """Send a frame, together with all that comes until the loop goes round."""
        if not self.frames:
            self.server.will_flush(self)
        self.frames.append(framed)

    def send(self, packet: Packet) -> None:
        """As write, of a packet that is framed already; not by way of it, as this is done for each recipient."""
        if not self.frames:
            self.server.will_flush(self)
        self.frames.append(packet.framed)

    def flush(self) -> None:
        frames, self.frames = self.frames, []
        transport = self.protocol.transport
        if self.is_closed or transport.is_closing():
            return
        if transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            self.cut("unread")
        else:
            transport.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def put_nowait(self, packet: EnginePacket | None) -> None:
        """What the libraries send goes the same way; after their last packet the transport is closed."""
        if packet is not None:
            encoded = packet.encode()
            self.write(frame(encoded if isinstance(encoded, bytes) else encoded.encode()))
            if packet.packet_type == CLOSE:
                self.close()

    async def put(self, packet: EnginePacket | None) -> None:
        self.put_nowait(packet)

    async def join(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Say goodbye once everything is written: whoever serves the transport wakes up and closes it."""
        self.protocol.queue.put_nowait({"type": "websocket.disconnect", "code": 1000})

    def end(self) -> None:
        """Begin no more commands: what is committed from here on is answered before the connection is closed."""
        self.ended, self._inbox = asyncio.Event(), None
        self.protocol.transport.pause_reading()
        if not self._is_busy:
            self.ended.set()
        self.server.will_shut_down(self)

    def cut(self, reason: str) -> None:
        metrics.cut.labels("slow").inc()
        log.warning("slow reader cut", reason=reason, connection=self.socket.sid)
        self.is_closed = True
        self.protocol.transport.abort()

    def check(self, now: float, interval: float, timeout: float) -> None:
        """To be called about every second: ask whether the client is there, and cut who does not read."""
        unread = self.protocol.transport.get_write_buffer_size()
        if not unread or unread < self.stalled[0]:
            self.stalled = (unread, now)
        elif self.stalled[0] and now - self.stalled[1] > STALLED_SECONDS:
            self.cut("stalled")
            return
        else:
            self.stalled = (unread, self.stalled[1] if self.stalled[0] else now)
        silent = now - self.heard_at
        if silent > interval + timeout:
            self.protocol.transport.abort()
        elif silent > interval and self.socket.last_ping is None:
            self.socket.last_ping = time.time()
            self.put_nowait(EnginePacket(PING))

    # In

    def hear(self, packet: bytes) -> None:
        """A packet came: it waits for those before it to be answered."""
        self.heard_at = time.monotonic()
        self.socket.last_ping = None
        if packet == b"3" or self.ended:
            return
        if not packet or packet[0] not in ENGINE_TYPES or len(packet) > MOST_PACKET_BYTES:
            self.close()
        elif not self._is_busy:
            self._begin(packet)
        else:
            self._inbox = self._inbox or deque()
            self._inbox.append(packet)
            if len(self._inbox) == MOST_WAITING_PACKETS:
                self.protocol.transport.pause_reading()

    def answer(self, packet: bytes | None) -> None:
        """The event that was taken is done with."""
        if packet is not None:
            self.write(frame(packet))
        self._go_on()

    def _begin(self, packet: bytes) -> None:
        self._is_busy = True
        if not self.server.take(self, packet):
            task = asyncio.get_running_loop().create_task(self._receive(packet))
            self.protocol.tasks.add(task)
            task.add_done_callback(self.protocol.tasks.discard)

    def _go_on(self) -> None:
        self._is_busy = False
        while self._inbox and not self._is_busy and not self.is_closed:
            waiting = self._inbox.popleft()
            if len(self._inbox) == MOST_WAITING_PACKETS // 2:
                self.protocol.transport.resume_reading()
            self._begin(waiting)
        if self.ended:
            self.ended.set()

    async def _receive(self, packet: bytes) -> None:
        """The long way in."""
        try:
            await self.socket.receive(EnginePacket(encoded_packet=packet.decode()))
        except UnknownPacketError:
            pass
        except (SocketIsClosedError, UnicodeDecodeError):
            self.close()
        except Exception as error:
            log_crash(error)
        finally:
            self._go_on()


def fits(environ: dict[str, Any]) -> bool:
    """Whether a connection is a WebSocket that can go the short way."""
    return isinstance(getattr(environ["asgi.send"], "__self__", None), LeanProtocol)


async def serve(server: Server, socket: Any, websocket: Any, environ: dict[str, Any]) -> bool:
    """Serve an accepted WebSocket of an Engine.IO socket to its end; false, and nothing done, where that can't be."""
    protocol = getattr(websocket.asgi_send, "__self__", None)
    if not isinstance(protocol, LeanProtocol):
        return False
    if socket.connected and not await _upgrade(socket, websocket):
        return True
    socket.connected = socket.upgraded = True
    socket.last_ping, socket.schedule_ping = None, _never
    _forget_handshake(protocol, environ)
    line = Line(server, socket, protocol)
    queue, socket.queue = socket.queue, line
    while not queue.empty():
        line.put_nowait(queue.get_nowait())
    try:
        while not protocol.queue.empty():
            packet = await websocket.wait()
            if isinstance(packet, str):
                line.hear(packet.encode())
        protocol.line = line
        await websocket.wait()
    except OSError:
        await websocket.close()
    line.is_closed = True
    await socket.close(wait=False, abort=True, reason=socket.server.reason.TRANSPORT_CLOSE)
    return True


async def _upgrade(socket: Any, websocket: Any) -> bool:
    """Go over from polling; a client that does not keep to the ceremony goes on polling."""
    if socket.upgraded:
        raise OSError
    socket.upgrading = True  # what is sent waits
    try:
        if await websocket.wait() != "2probe":
            return False
        await websocket.send("3probe")
        await socket.queue.put(EnginePacket(NOOP))  # ends the poll
        return bool(await websocket.wait() == "5")
    except OSError:
        return False
    finally:
        socket.upgrading = False


def _forget_handshake(protocol: LeanProtocol, environ: dict[str, Any]) -> None:
    # A browser's headers are 4 KB for each connection, as long as it lives.
    for name in [name for name in environ if name.startswith("HTTP_") and name != "HTTP_X_REQUEST_ID"]:
        del environ[name]
    protocol.scope["headers"] = []
    del protocol.request, protocol.response


def _never() -> None:
    """Pings are sent by one sweep for all."""
