"""The fast path between a WebSocket and the commands and events, beneath uvicorn and python-engineio.

The libraries spend two tasks and two timers on each received packet, and a queue, a task, an encoding and a frame on
each recipient of an event: three quarters of the cost of a message. Here a frame is passed on as it is read, an event
is framed once for all its recipients, and all packets of one commit to a connection are one write.

Handshake, authentication, polling and all packets but events stay with the libraries.
"""

import time
from typing import TYPE_CHECKING

from engineio.exceptions import SocketIsClosedError, UnknownPacketError
from engineio.packet import Packet as EnginePacket
from websockets.frames import CloseCode

from chat_app.live.engine.frames import MOST_PACKET_BYTES, PACKET_TYPES, Packet, frame
from chat_app.live.engine.protocol import MOST_UNREAD_BYTES, FastProtocol

if TYPE_CHECKING:  # they make this
    from chat_app.live.engine.server import ChatServer
    from chat_app.live.engine.sockets import Socket

# A client that reads nothing for so long is cut.
STALLED_SECONDS = 15
# A client that sends faster than it is answered for so long is cut. After an outage an outbox is answered in less.
FULL_SECONDS = 20
# The limits of packets that wait for the commands before them.
MOST_WAITING_PACKETS, MOST_WAITING_BYTES = 64, 2**20
PING, PONG = frame(b"2"), b"3"


class FastSocket:
    """The connection of one client on the fast path."""

    def __init__(self, server: "ChatServer", socket: "Socket", protocol: FastProtocol) -> None:
        self.server = server
        self.socket = socket
        self.protocol = protocol
        # The next write.
        self.frames: list[bytes] = []
        self.is_draining = False
        # Whether no packet may be read before some of those that wait have begun.
        self.is_full = False
        self._inbox: list[bytes] = []
        self._waiting_bytes = 0
        # Whether a packet has begun and is not answered.
        self.is_busy = self._is_beginning = self._is_pinged = False
        # How much the client had not read at the last check, and when it last read some or had read all.
        self._unread = 0
        self._read_at = self._free_at = self._received_at = time.monotonic()

    def write(self, framed: bytes) -> None:
        """Send a frame, in one write with all others of this iteration of the event loop."""
        if not self.frames:
            self.server.will_flush(self)
        self.frames.append(framed)

    def send(self, packet: Packet) -> None:
        """As `write`, for a framed packet. It does not call `write`, as it runs for each recipient of an event."""
        if not self.frames:
            self.server.will_flush(self)
        self.frames.append(packet.framed)

    def flush(self) -> None:
        frames, self.frames = self.frames, []
        transport = self.protocol.transport
        if self.protocol.is_over:
            return
        if transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
            self.protocol.cut()
        else:
            transport.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def close(self) -> None:
        """Close the connection once everything is written: `Socket` waits for this, and closes it."""
        self.protocol.queue.put_nowait({"type": "websocket.disconnect", "code": 1000})

    def drain(self) -> None:
        """Begin no more commands: what is committed from here on is answered before the connection is closed."""
        self.is_draining = self.is_full = True
        self._inbox.clear()
        self.server.will_shut_down(self)

    def check(self, now: float, interval: float, timeout: float) -> None:
        """To be called about every second: ask whether the client is there, and cut one that does not read or pause."""
        unread = self.protocol.transport.get_write_buffer_size()
        if not unread or unread < self._unread:
            self._read_at = now
        self._unread = unread
        # While a client sends faster than it is answered, the inbox is nearly full at every check, but not always full.
        if len(self._inbox) < MOST_WAITING_PACKETS // 4 and self._waiting_bytes < MOST_WAITING_BYTES // 4:
            self._free_at = now
        silent_seconds = now - self._received_at
        if now - self._read_at > STALLED_SECONDS:
            self.protocol.cut()
        elif now - self._free_at > FULL_SECONDS:
            self.protocol.refuse(CloseCode.POLICY_VIOLATION)
        elif silent_seconds > interval + timeout:
            self.protocol.transport.abort()
        elif silent_seconds > interval and not self._is_pinged:
            self._is_pinged = True
            self.write(PING)

    def receive(self, packet: bytes) -> None:
        """Begin with a packet, or let it wait until those before it are answered."""
        self._received_at, self._is_pinged = time.monotonic(), False
        if packet == PONG or self.is_draining or self.protocol.close_sent:
            return
        if not packet or packet[0] not in PACKET_TYPES:
            self.close()
        elif not self.is_busy:
            self._begin(packet)
        else:
            self._inbox.append(packet)
            self._count_waiting(len(packet))

    def _count_waiting(self, change: int) -> None:
        self._waiting_bytes += change
        most_bytes = MOST_WAITING_BYTES - MOST_PACKET_BYTES
        self.is_full = len(self._inbox) >= MOST_WAITING_PACKETS or self._waiting_bytes > most_bytes

    def _begin(self, packet: bytes) -> None:
        self.is_busy = self._is_beginning = True
        work = self.server.begin(self, packet)
        self._is_beginning = False
        if work is not None:
            task = self.protocol.loop.create_task(work)
            # The server waits for these at the end of the process.
            self.protocol.tasks.add(task)
            task.add_done_callback(self.protocol.tasks.discard)

    def finish(self, response: bytes | None = None) -> None:
        """The packet that was begun is answered: send the response, and begin with the next one."""
        if response is not None:
            self.write(frame(response))
        if self._inbox or self._is_beginning:
            # Not at once: thousands of packets that are refused at once would be one pause for all others.
            self.protocol.loop.call_soon(self._begin_next)
        else:
            self.is_busy = False

    def _begin_next(self) -> None:
        self.is_busy = False
        if self._inbox and not self.protocol.is_over:
            packet = self._inbox.pop(0)
            self._count_waiting(-len(packet))
            if not self.is_full:
                self.protocol.read_on()
            self._begin(packet)

    async def receive_by_library(self, packet: bytes) -> None:
        """Let the libraries receive a packet that is no event."""
        try:
            await self.socket.receive(EnginePacket(encoded_packet=packet.decode()))
        except (SocketIsClosedError, UnicodeDecodeError):
            self.close()
        except (UnknownPacketError, ValueError, RecursionError) as error:
            self.socket.log_malformed(error)
        finally:
            self.finish()
