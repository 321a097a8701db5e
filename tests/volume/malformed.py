"""Packets of Engine.IO and Socket.IO that are wrong, made from a seed out of those that the tests name. Pure."""

import string
from collections.abc import Callable
from random import Random
from typing import Any

from tests import test_bad_packets, test_malformed_packets
from tests.raw import frame

BINARY = 0x82
LONGEST = 3000
TOKENS = [
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"-", b"/", b"\\", b"\x00", b"\x1e", b"null", b"1e999", b"-1", b"0"),
    *(b"\xf0\x9f\x98\x80", b"\\ud800", b"9" * 40, b"_placeholder", b'{"_placeholder":true,"num":0}', b"[[[[", b"4"),
]
COMMANDS = (b"list_chats", b"send_message", b"activate_chat", b"list_messages", b"set_typing", b"unknown", b"ready")


def _named() -> list[bytes]:
    """The malformed packets of the tests, but none that ends a connection, and some that are right."""
    cases: list[Any] = [*test_bad_packets.UNREADABLE.values(), *test_bad_packets.IGNORED.values()]
    named: list[str | bytes] = [packet for packets in cases for packet in packets]
    named += [*test_malformed_packets.PACKETS[False], *test_malformed_packets.PACKETS[True]]
    named += [f'42{number}["{name.decode()}",{{"limit":{number}}}]' for number, name in enumerate(COMMANDS)]
    found = [packet.encode() if isinstance(packet, str) else packet for packet in named]
    # Those of a test about depth and length are sent there; here they would be most of the bytes.
    return [packet for packet in found if packet[:1] not in (b"1", b"") and len(packet) <= LONGEST]


class Malformed:
    """`packet()`: one after which the connection goes on; `last()`: a frame that need not leave it open."""

    def __init__(self, random: Random) -> None:
        self.random, self.named = random, _named()
        self._changes: tuple[Callable[[bytes], bytes], ...] = (
            self._flip,
            self._cut,
            self._insert,
            self._repeat,
            self._number,
            self._nest,
            self._splice,
        )

    def packet(self) -> bytes:
        packet = self.random.choice(self.named)
        for _ in range(self.random.choice((0, 1, 1, 2, 4))):
            packet = self.random.choice(self._changes)(packet)
        # Text that is not UTF-8 ends a connection.
        packet = packet[:LONGEST].decode(errors="ignore").encode()
        # Whatever else it is, it is a message, a pong or an upgrade, and no disconnect.
        if packet[:1] not in (b"3", b"4", b"5", b"6") or packet[:2] == b"41":
            packet = b"42" + packet[2:].decode(errors="ignore").encode()
        return packet

    def frame(self) -> bytes:
        """The packet in a frame of its own, or in several."""
        packet = self.packet()
        if self.random.random() < 0.03:
            return frame(self.random.randbytes(self.random.randrange(200)), BINARY)
        if self.random.random() < 0.03:
            cut = self.random.randrange(len(packet) + 1)
            return frame(packet[:cut], 0x01) + frame(packet[cut:], 0x80)
        return frame(packet)

    def last(self) -> bytes:
        if self.random.random() < 0.5:
            return self.random.choice(test_malformed_packets.ENDING)
        packet = bytearray(frame(self.packet()))
        for _ in range(self.random.randrange(1, 4)):
            packet[self.random.randrange(min(12, len(packet)))] = self.random.randrange(256)
        return bytes(packet)

    def posted(self) -> bytes:
        """The body of a request of a client that polls."""
        if self.random.random() < 0.3:
            posted = self.random.choice(test_bad_packets.POSTED)
            return posted if len(posted) <= LONGEST else posted[:LONGEST]
        return b"\x1e".join(self.packet() for _ in range(self.random.randrange(1, 8)))

    def _at(self, packet: bytes) -> int:
        return self.random.randrange(len(packet) + 1)

    def _flip(self, packet: bytes) -> bytes:
        at = self._at(packet)
        return packet[:at] + bytes((self.random.randrange(256),)) + packet[at + 1 :]

    def _cut(self, packet: bytes) -> bytes:
        first, last = sorted((self._at(packet), self._at(packet)))
        return packet[:first] + packet[last:]

    def _insert(self, packet: bytes) -> bytes:
        at = self._at(packet)
        return packet[:at] + self.random.choice(TOKENS) * self.random.choice((1, 1, 1, 30)) + packet[at:]

    def _repeat(self, packet: bytes) -> bytes:
        first, last = sorted((self._at(packet), self._at(packet)))
        return packet[:last] + packet[first:last] * self.random.choice((1, 3)) + packet[last:]

    def _number(self, packet: bytes) -> bytes:
        """Digits where the number of a packet stands, or of its attachments."""
        digits = "".join(self.random.choice(string.digits + "-/²") for _ in range(self.random.choice((1, 3, 20, 200))))
        return packet[:2] + digits.encode() + packet[2:]

    def _nest(self, packet: bytes) -> bytes:
        depth = self.random.choice((3, 100, 900))
        return b'427["list_chats",' + self.random.choice((b"[", b'{"a":')) * depth + packet[-20:]

    def _splice(self, packet: bytes) -> bytes:
        return packet[: self._at(packet)] + self.random.choice(self.named)[self._at(packet) :]
