"""A load and its results."""

from collections.abc import Sequence
from dataclasses import dataclass, field

# The place of the marker in a command.
SLOT = b"{marker}"
MOST_ERRORS_KEPT = 3


@dataclass
class Client:
    """A client: its connect packet, its command with the places of the marker, and the number of receivers."""

    connect: bytes
    command: bytes = b""
    sends: bool = False
    others: int = 0


@dataclass
class Load:
    """The load of a server. `counts_by_list`: the marker is only in previews, and deliveries are counted by the
    message_count of the chat list's events. `rate`: messages a second in all; None: each sender has one in flight.
    """

    clients: Sequence[Client]
    ready: bytes
    counts_by_list: bool = False
    rate: float | None = None


@dataclass
class Counts:
    """The counts of the measured window. The errors are those of the whole run."""

    seconds: float = 0.0
    acked: int = 0
    delivered: int = 0
    ack_ms: list[float] = field(default_factory=list)
    delivery_ms: list[float] = field(default_factory=list)
    errors: int = 0
    texts: list[str] = field(default_factory=list)

    def error(self, text: str, times: int = 1) -> None:
        self.errors += times
        if len(self.texts) < MOST_ERRORS_KEPT:
            self.texts.append(text)
