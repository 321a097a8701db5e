"""WebSocket frames and packets as bytes, and how many of them one connection may send. Knows no connection."""

import time
from collections.abc import Callable

from websockets.frames import CloseCode

from chat_app.media.links import at_host

# The largest packet, of one frame or of several fragments. A text of the greatest length, each character escaped, is
# far below.
MOST_PACKET_BYTES = 256 * 1024
# Of one message: as many as the largest has in pieces of 256 bytes.
MOST_FRAGMENTS = 1024
# Of one iteration of the event loop: one read is up to 256 KB, which are 43,000 pings or a second of processor time.
TURN_FRAMES, TURN_BYTES = 64, 256 * 1024
# Of one second. A client that waits for each answer sends a few hundred frames, and one that was offline, several
# hundred at once; 2,000 pings take a hundredth of the processor's time.
SECOND_FRAMES = 2000
# Beyond these the rest waits for the next second. To parse so much of the costliest JSON takes a fifth of a second.
SECOND_BYTES = 8 * 2**20
# A large outbox is a few megabytes: a client that sends more than this in each of so many seconds on end floods.
FLOOD_BYTES, MOST_FLOOD_SECONDS = 2**20, 20

# Of one second before the login: else a hundred connections that need none, each within its budget, stop the node.
FIRST_FRAMES, FIRST_BYTES = 100, 2**19

MASKED = 0x80
# The types of Engine.IO packets that a client may send.
PACKET_TYPES = range(ord("0"), ord("6") + 1)


def frame(packet: bytes) -> bytes:
    """A whole text frame, not masked, as servers send it."""
    length = len(packet)
    if length < 126:
        return bytes((0x81, length)) + packet
    if length < 2**16:
        return b"\x81\x7e" + length.to_bytes(2, "big") + packet
    return b"\x81\x7f" + length.to_bytes(8, "big") + packet


class Packet:
    """A Socket.IO packet: encoded and framed once for all its recipients."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self._at: dict[bytes, Packet] = {}
        # 4: to Engine.IO it is a message.
        self.framed = frame(b"4" + body)

    def at(self, host: bytes) -> "Packet":
        """This packet for the clients of a host: encoded and framed once for all of them."""
        if host not in self._at:
            self._at[host] = Packet(at_host(self.body, host))
        return self._at[host]


class Refused(Exception):
    """The connection ends with this close code."""

    def __init__(self, code: CloseCode) -> None:
        self.code = code


def find_frame(data: bytearray, start: int) -> tuple[int, int] | None:
    """The begin and the end of the payload of the frame at `start`; None until it is complete. Raises Refused."""
    if len(data) - start < 2:
        return None
    length, head = data[start + 1] & 0x7F, 6
    if not data[start + 1] & MASKED:
        raise Refused(CloseCode.PROTOCOL_ERROR)
    if length > 125:
        head = 8 if length == 126 else 14
        if len(data) - start < head:
            return None
        length = int.from_bytes(data[start + 2 : start + head - 4], "big")
        # Refused before the rest arrives.
        if length > MOST_PACKET_BYTES:
            raise Refused(CloseCode.MESSAGE_TOO_BIG)
    end = start + head + length
    return (start + head, end) if end <= len(data) else None


class Budget:
    """Counts the frames and bytes that one connection sends: within a second, and in its unfinished message."""

    def __init__(self) -> None:
        self._ends = 0.0
        self._frames = self._bytes = self._flood_seconds = 0
        # Of the unfinished message. 0: there is none.
        self.fragments = self._fragment_bytes = 0

    def spend(self, frames: int, size: int, is_logged_in: Callable[[], bool]) -> float:
        """Count what was read. Returns the seconds until more may be read. Raises Refused."""
        now = time.monotonic()
        if now >= self._ends:
            is_flood = self._bytes > FLOOD_BYTES and now < self._ends + 1
            self._flood_seconds = self._flood_seconds + 1 if is_flood else 0
            self._ends, self._frames, self._bytes = now + 1, 0, 0
        self._frames += frames
        self._bytes += size
        if self._frames <= FIRST_FRAMES and self._bytes <= FIRST_BYTES:
            return 0.0
        most_frames, most_bytes = (SECOND_FRAMES, SECOND_BYTES) if is_logged_in() else (FIRST_FRAMES, FIRST_BYTES)
        if self._frames > most_frames or self._flood_seconds > MOST_FLOOD_SECONDS:
            raise Refused(CloseCode.POLICY_VIOLATION)
        return self._ends - now if self._bytes > most_bytes else 0.0

    def add_fragment(self, size: int, *, is_last: bool) -> None:
        """Count a data frame. Raises Refused."""
        self.fragments += 1
        self._fragment_bytes += size
        if self._fragment_bytes > MOST_PACKET_BYTES:
            raise Refused(CloseCode.MESSAGE_TOO_BIG)
        # Each is an object of its own until the last one arrives.
        if self.fragments > MOST_FRAGMENTS:
            raise Refused(CloseCode.POLICY_VIOLATION)
        if is_last:
            self.fragments = self._fragment_bytes = 0
