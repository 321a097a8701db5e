"""How many transports each address has here: Engine.IO sockets, whether or not anybody has logged in over them."""

from collections import Counter
from collections.abc import Container


class Transports:
    """The transports of this process by address."""

    def __init__(self) -> None:
        # By id: the address, and how many it had before this one.
        self._opened: dict[str, tuple[str, int]] = {}
        self._counts: Counter[str] = Counter()

    def count(self, address: str | None) -> int:
        return self._counts[address] if address is not None else 0

    def add(self, transport_id: str, address: str | None) -> None:
        """Count a transport; one without an address, such as over a Unix socket, is not counted."""
        if address is not None:
            self._opened[transport_id] = address, self._counts[address]
            self._counts[address] += 1

    def beside(self, transport_id: str) -> int:
        """How many its address had when it was opened: of two that are opened at once only one is the last allowed."""
        return self._opened.get(transport_id, ("", 0))[1]

    def remove(self, transport_id: str) -> None:
        """Forget a transport; an unknown one is nothing."""
        address, _ = self._opened.pop(transport_id, (None, 0))
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

    def keep(self, transport_ids: Container[str]) -> None:
        """Forget all others."""
        for transport_id in [known for known in self._opened if known not in transport_ids]:
            self.remove(transport_id)
