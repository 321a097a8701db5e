"""The delivery order: the events of a row's changes leave in the order in which the transactions held its lock.

The database answers two commits of one chat in their order, but on two sockets the answers may be read in any.
"""

import asyncio
from collections.abc import Hashable

from chat_app.events import Recording

# Of each row the end of the transaction that locked it last.
Last = dict[Hashable, asyncio.Future[None]]


class Place:
    """The place of one transaction in the delivery order: behind those that held the locks of its rows before."""

    def __init__(self, db: Recording, last: Last) -> None:
        db.info["place"] = self
        self._last = last
        self._over = asyncio.get_running_loop().create_future()
        self._previous: dict[Hashable, asyncio.Future[None] | None] = {}

    def take(self, row: Hashable) -> None:
        if row not in self._previous:
            self._previous[row] = self._last.get(row)
            self._last[row] = self._over

    async def wait(self, until: float) -> None:
        """Wait for the transactions before this one. Raises TimeoutError at this time of the event loop."""
        if pending := self._pending():
            seconds = max(until - asyncio.get_running_loop().time(), 0)
            if (await asyncio.wait(pending, timeout=seconds))[1]:
                raise TimeoutError("the commit before this one is not answered")

    def close(self) -> None:
        """Let those behind go on: the transaction is over."""
        if pending := self._pending():  # this one failed while it waited: the next ones must wait instead
            pending[0].add_done_callback(lambda _: self.close())
            return
        self._over.set_result(None)
        for row in self._previous:
            if self._last.get(row) is self._over:
                del self._last[row]

    def _pending(self) -> list[asyncio.Future[None]]:
        return [previous for previous in self._previous.values() if previous and not previous.done()]


def order_delivery(db: Recording, row: Hashable) -> None:
    """Call this while the transaction holds the lock of a row, a chat's or a membership's."""
    db.info["place"].take(row)
