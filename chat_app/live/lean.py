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
from websockets.frames import CloseCode

from chat_app import metrics
from chat_app.live.connections import Packet, frame
from chat_app.live.frames import MOST_PACKET_BYTES
from chat_app.live.websocket import MOST_UNREAD_BYTES, FastProtocol
from chat_app.logs import log, log_crash

# A reader that takes nothing for so long is cut.
STALLED_SECONDS = 15
# As is a client that sends more than is worked off for so long; after an outage an outbox is worked off in less.
FULL_SECONDS = 20
# What waits for the commands before it.
MOST_WAITING_PACKETS, MOST_WAITING_BYTES = 64, 2**20
# The types of Engine.IO packets that a client may send.
ENGINE_TYPES = b"0123456"


class Server(Protocol):
    """What a line needs of the Socket.IO server."""

    def take(self, line: "Line", packet: bytes) -> bool:
        """Begin with an event whose answer comes by `line.answer`; false if it has to go the long way."""

    def is_logged_in(self, eio_sid: str) -> bool:
        """Whether there is a connection over this transport: by polling, before its upgrade."""

    def will_flush(self, line: "Line") -> None:
        """See that `line.flush` is called soon."""

    def will_shut_down(self, line: "Line") -> None:
        """Shut down the protocol of this line once all lines have ended."""

    def log_malformed(self, eio_sid: str, error: Exception) -> None:
        """Log that a packet can't be read."""


class Line:
    """One connection that goes the short way. It stands in for the queue of its Engine.IO socket."""

    __slots__ = (
        *("_free_at", "_inbox", "_is_beginning", "_is_busy", "_waiting_bytes", "ended", "frames", "received_at"),
        *("is_closed", "is_full", "protocol", "server", "socket", "stalled"),
    )

    def __init__(self, server: Server, socket: Any, protocol: FastProtocol) -> None:
        self.server = server
        self.socket = socket
        self.protocol = protocol
        self.frames: list[bytes] = []
        self.is_closed = False
        # At the end of the process: set when the command under way is answered.
        self.ended: asyncio.Event | None = None
        self.received_at = time.monotonic()
        # How much was unread at the last look, and since when it does not get less.
        self.stalled = (0, 0.0)
        # Whether no packet may be read before some of those that wait have begun.
        self.is_full = False
        self._free_at = self.received_at
        self._inbox: deque[bytes] | None = None
        self._waiting_bytes = 0
        self._is_busy = self._is_beginning = False

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
        self.ended, self._inbox, self.is_full = asyncio.Event(), None, True
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
        if not self.is_full:
            self._free_at = now
        elif now - self._free_at > FULL_SECONDS:
            self.protocol.refuse(CloseCode.POLICY_VIOLATION)
            return
        silent = now - self.received_at
        if silent > interval + timeout:
            self.protocol.transport.abort()
        elif silent > interval and self.socket.last_ping is None:
            self.socket.last_ping = time.time()
            self.put_nowait(EnginePacket(PING))

    # In

    def hear(self, packet: bytes) -> None:
        """A packet came: it waits for those before it to be answered."""
        self.received_at = time.monotonic()
        self.socket.last_ping = None
        if packet == b"3" or self.ended or self.is_closed:
            return
        if not packet or packet[0] not in ENGINE_TYPES or len(packet) > MOST_PACKET_BYTES:
            self.close()
        elif not self._is_busy:
            self._begin(packet)
        else:
            self._inbox = self._inbox or deque()
            self._inbox.append(packet)
            self._waiting_bytes += len(packet)
            most_bytes = MOST_WAITING_BYTES - MOST_PACKET_BYTES
            self.is_full = len(self._inbox) >= MOST_WAITING_PACKETS or self._waiting_bytes > most_bytes

    def answer(self, packet: bytes | None) -> None:
        """The event that was taken is done with."""
        if packet is not None:
            self.write(frame(packet))
        self._go_on()

    def _begin(self, packet: bytes) -> None:
        self._is_busy = self._is_beginning = True
        is_taken = self.server.take(self, packet)
        self._is_beginning = False
        if not is_taken:
            task = asyncio.get_running_loop().create_task(self._receive(packet))
            self.protocol.tasks.add(task)
            task.add_done_callback(self.protocol.tasks.discard)

    def _go_on(self) -> None:
        if self._is_beginning:
            # Refused at once: thousands of such packets would be one pause for all others.
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        self._is_busy = False
        if self._inbox and not self.is_closed:
            waiting = self._inbox.popleft()
            self._waiting_bytes -= len(waiting)
            if len(self._inbox) <= MOST_WAITING_PACKETS // 2 and self._waiting_bytes <= MOST_WAITING_BYTES // 2:
                self.is_full = False
                self.protocol.read_on()
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
        except (ValueError, RecursionError) as error:
            self.server.log_malformed(self.socket.sid, error)
        except Exception as error:
            log_crash(error)
        finally:
            self._go_on()


def fits(environ: dict[str, Any]) -> bool:
    """Whether a connection is a WebSocket that can go the short way."""
    return isinstance(getattr(environ["asgi.send"], "__self__", None), FastProtocol)


async def serve(server: Server, socket: Any, websocket: Any, environ: dict[str, Any]) -> bool:
    """Serve an accepted WebSocket of an Engine.IO socket to its end; false, and nothing done, where that can't be."""
    protocol = getattr(websocket.asgi_send, "__self__", None)
    if not isinstance(protocol, FastProtocol):
        return False
    if socket.connected and not await _upgrade(socket, websocket):
        return True
    socket.connected = socket.upgraded = True
    socket.last_ping, socket.schedule_ping = None, _never
    _forget_handshake(protocol, environ)
    line = Line(server, socket, protocol)
    protocol.budget.is_full = server.is_logged_in(socket.sid)
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
        return False
    socket.upgrading = True  # what is sent waits
    try:
        if await websocket.wait() != "2probe":
            return False
        await websocket.send("3probe")
        await socket.queue.put(EnginePacket(NOOP))  # ends the poll
        # Another WebSocket of the same transport may have been faster.
        return await websocket.wait() == "5" and not socket.upgraded
    except OSError:
        return False
    finally:
        socket.upgrading = False


def _forget_handshake(protocol: FastProtocol, environ: dict[str, Any]) -> None:
    # A browser's headers are 4 KB for each connection, as long as it lives.
    for name in [name for name in environ if name.startswith("HTTP_") and name != "HTTP_X_REQUEST_ID"]:
        del environ[name]
    protocol.scope["headers"] = []
    del protocol.request, protocol.response


def _never() -> None:
    """Pings are sent by one sweep for all."""
