"""Generates the load: one process, one loop over epoll, hand-written Socket.IO 5 over WebSocket, for chat_app and Node.

It must cost less than the server it measures, so frames of connections that only listen are not parsed: markers are
counted in the bytes that the kernel returns. The marker of a message has its sender and time.
"""

import gc
import re
import select
import socket
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from tests.bench.load import SLOT, Client, Counts, Load

# A marker has the form of a UUID, so that it can be a client_id. No other UUID on the wire has this third group.
MARKER = re.compile(rb"-5eed-bead-([0-9a-f]{4})-([0-9a-f]{12})")
MARKER_START, MARKER_LENGTH = b"-5eed-bead-", 28
MESSAGE_COUNT = re.compile(rb'"message_count":(\d+)[,}]')
PING, PONG = b"2", b"3"
PING_FRAME = b"\x81\x012"
CHUNK = 1 << 18
HANDSHAKES_AT_ONCE = 8
LISTENERS_TIMED = 40
STUCK_SECONDS = 180
PATIENCE_SECONDS = 10


class Connection:
    __slots__ = ("acked", "client", "in_flight", "is_timed", "kept", "me", "numbers", "seen", "socket", "state")

    def __init__(self, client: Client, index: int) -> None:
        self.client = client
        self.me = b"%04x" % index
        self.state = "upgrading"
        self.kept = b""
        self.numbers = count(1)
        self.in_flight: dict[int, int] = {}
        self.is_timed = client.sends
        self.seen = 0
        self.acked = 0
        self.socket: socket.socket


def frame(payload: bytes) -> bytes:
    """A client's text frame, masked with zeros."""
    length = len(payload)
    head = bytes((0x81, 0x80 | length)) if length < 126 else b"\x81\xfe" + length.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


class Generator:
    """All connections of one load."""

    def __init__(self, port: int, load: Load, *, patience: float = PATIENCE_SECONDS) -> None:
        self.address = ("127.0.0.1", port)
        self.patience = patience
        self.load = load
        self.poll = select.epoll()
        self.connections = [Connection(client, index) for index, client in enumerate(load.clients)]
        self.senders = [connection for connection in self.connections if connection.client.sends]
        self.by_fd: dict[int, Connection] = {}
        self.counts = Counts()
        self.acked = self.delivered = self.ready = 0
        self.is_sending = self.is_measuring = False
        self.origin = time.monotonic_ns()
        self.salt = 0
        listeners = [connection for connection in self.connections if not connection.client.sends]
        for connection in listeners[:: max(1, len(listeners) // LISTENERS_TIMED)]:
            connection.is_timed = True

    def connect(self, number: int | None = None) -> float:
        """Connect `number` clients or all of them, several at a time. Returns the seconds it took."""
        started, wanted = time.monotonic(), len(self.connections) if number is None else number
        while self.ready < wanted:
            while len(self.by_fd) < min(wanted, self.ready + HANDSHAKES_AT_ONCE):
                self._begin(self.connections[len(self.by_fd)])
            self._poll(0.05)
            if self.counts.errors or time.monotonic() - started > STUCK_SECONDS:
                raise RuntimeError(f"{self.ready} of {wanted} connected: {self.counts.texts}")
        return time.monotonic() - started

    def idle(self, seconds: float) -> None:
        """Answer pings only."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self._poll(min(left, 0.05))

    def run(self, warm: float, seconds: float, at_edge: Callable[[], Any] = lambda: None) -> tuple[Counts, Any, Any]:
        """Send, and count for `seconds`. Also returns the results of `at_edge` at the beginning and end of these."""
        gc.collect()
        gc.disable()
        try:
            self.is_sending = True
            if self.load.rate is None:
                for connection in self.senders:
                    self._send(connection)
            self._go_on(warm)
            before, started = at_edge(), time.perf_counter()
            figures = self._totals()
            self.is_measuring = True
            self._go_on(seconds)
            self.is_measuring = False
            self.counts.seconds = time.perf_counter() - started
            acked, delivered = self._totals()
            after = at_edge()
            self.counts.acked, self.counts.delivered = acked - figures[0], delivered - figures[1]
            self._drain()
        finally:
            gc.enable()
        return self.counts, before, after

    def close(self) -> None:
        for connection in self.by_fd.values():
            connection.socket.close()
        self.poll.close()

    def _totals(self) -> tuple[int, int]:
        return self.acked, self._delivered()

    def _delivered(self) -> int:
        """The deliveries to others than the sender."""
        if self.load.counts_by_list:
            return sum(connection.seen - connection.acked for connection in self.connections)
        return self.delivered

    def _go_on(self, seconds: float) -> None:
        now = time.monotonic()
        ends, rate = now + seconds, self.load.rate
        if rate is None:
            while time.monotonic() < ends:
                self._poll(0.02)
            return
        for number in count():
            due = now + number / rate
            while (left := min(due, ends) - time.monotonic()) > 0:
                self._poll(left)
            if due >= ends:
                return
            self._send(self.senders[number % len(self.senders)])

    def _drain(self) -> None:
        """Wait for messages in flight. Those that do not arrive are missing."""
        self.is_sending = False
        ends = time.monotonic() + self.patience
        while True:
            waiting = sum(len(connection.in_flight) for connection in self.senders)
            expected = sum(connection.acked * connection.client.others for connection in self.senders)
            if time.monotonic() > ends or (not waiting and self._delivered() == expected):
                break
            self._poll(0.05)
        if waiting:
            self.counts.error(f"{waiting} messages were not answered", waiting)
        if wrong := abs(expected - self._delivered()):
            self.counts.error(f"{self._delivered()} deliveries instead of {expected}", wrong)

    def _begin(self, connection: Connection) -> None:
        connection.socket = socket.create_connection(self.address)
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.socket.setblocking(False)
        self.by_fd[connection.socket.fileno()] = connection
        self.poll.register(connection.socket, select.EPOLLIN)
        connection.socket.send(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: Y2hhdCBsb2FkIHRlc3QgIQ==\r\n\r\n"
        )

    def _send(self, connection: Connection) -> None:
        self.salt = (self.salt + 0x9E3779B1) & 0xFFFFFFFF
        number = next(connection.numbers)
        now = time.monotonic_ns() - self.origin
        marker = b"%08x-5eed-bead-%b-%012x" % (self.salt, connection.me, now)
        packet = frame(b"42%d%b" % (number, connection.client.command.replace(SLOT, marker)))
        connection.in_flight[number] = now
        try:
            if connection.socket.send(packet) != len(packet):
                raise BlockingIOError
        except OSError as error:
            self.counts.error(f"could not send: {error!r}")

    def _poll(self, timeout: float) -> None:
        for fd, _ in self.poll.poll(timeout):
            connection = self.by_fd[fd]
            try:
                data = connection.socket.recv(CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._lost(connection)
            elif connection.state == "ready" and not connection.client.sends:
                self._listen(connection, data)
            else:
                self._read(connection, data)

    def _lost(self, connection: Connection) -> None:
        self.poll.unregister(connection.socket)
        self.counts.error(f"the server closed a connection while {connection.state}: {connection.kept[:300]!r}")
        connection.in_flight.clear()

    def _listen(self, connection: Connection, data: bytes) -> None:
        data = connection.kept + data
        # Too short for a marker, so none is counted twice, and longer than the other patterns searched for.
        connection.kept = data[1 - MARKER_LENGTH :]
        if PING_FRAME in data:
            connection.socket.send(frame(PONG))
        if self.load.counts_by_list:
            self._see(connection, data)
        if connection.is_timed:
            self._time(connection, data)
        elif not self.load.counts_by_list:
            # A marker that begins in the last piece is counted in the next one.
            self.delivered += data.count(MARKER_START, 0, len(data) - MARKER_LENGTH + len(MARKER_START))

    def _see(self, connection: Connection, data: bytes) -> None:
        """Read the newest message_count. The events of a connection come in order."""
        if found := MESSAGE_COUNT.findall(data):
            connection.seen = max(connection.seen, int(found[-1]))

    def _time(self, connection: Connection, data: bytes) -> None:
        now = time.monotonic_ns() - self.origin
        times = [sent for sender, sent in MARKER.findall(data) if sender != connection.me]
        if not self.load.counts_by_list:
            self.delivered += len(times)
        if self.is_measuring:
            self.counts.delivery_ms.extend([(now - int(sent, 16)) / 1e6 for sent in times])

    def _read(self, connection: Connection, data: bytes) -> None:
        """Parse the frames of a connection."""
        data, at = connection.kept + data, 0
        if connection.state == "upgrading":
            at = data.find(b"\r\n\r\n") + 4
            if at == 3:
                connection.kept = data
                return
            connection.state = "opening" if data.startswith(b"HTTP/1.1 101") else "refused"
        size = len(data)
        while size - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if start + length > size or start > size:
                break
            at = start + length
            self._packet(connection, data[start:at])
        connection.kept = data[at:]

    def _packet(self, connection: Connection, packet: bytes) -> None:
        start = packet[:2]
        if start == b"43":
            self._answered(connection, packet)
        elif packet == PING:
            connection.socket.send(frame(PONG))
        elif connection.state != "ready":
            self._welcomed(connection, packet)
        elif start == b"42":
            if self.load.counts_by_list:
                self._see(connection, packet)
            if MARKER_START in packet:
                self._time(connection, packet)

    def _welcomed(self, connection: Connection, packet: bytes) -> None:
        if packet.startswith(b"0{"):
            connection.socket.send(frame(connection.client.connect))
        elif packet.startswith(b"44"):
            self.counts.error(f"connection refused: {packet[:300]!r}")
        elif packet.startswith(self.load.ready):
            connection.state = "ready"
            self.ready += 1

    def _answered(self, connection: Connection, packet: bytes) -> None:
        number, _, answer = packet[2:].partition(b"[")
        sent = connection.in_flight.pop(int(number), None)
        if sent is None or not answer.startswith(b'{"ok":true'):
            self.counts.error(f"bad answer: {packet[:300]!r}")
        else:
            connection.acked += 1
            self.acked += 1
            if self.is_measuring:
                self.counts.ack_ms.append((time.monotonic_ns() - self.origin - sent) / 1e6)
        if self.is_sending and self.load.rate is None:
            self._send(connection)
