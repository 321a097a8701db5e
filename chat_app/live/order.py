"""Events of one chat arrive from several nodes in any order, and are delivered in the order of its versions.

A change waits a moment for its predecessor; one that arrives after a newer one was delivered is dropped. The order is
kept for each chat, not for each connection: who connects later reads a snapshot that is at least as new.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable
from uuid import UUID

from chat_app.events import ActiveChatSet, ChatsChanged, MessagesChanged
from chat_app.live.envelopes import Envelope, resync

WAIT_SECONDS = 0.1
# A version that was followed by so many of others can't be overtaken any more.
MOST_KNOWN = 50_000
MOST_WAITING = 1000


class _Newest:
    """The newest version of each thing that was delivered."""

    def __init__(self) -> None:
        self._versions: dict[Hashable, int] = {}

    def get(self, thing: Hashable) -> int:
        return self._versions.get(thing, 0)

    def pass_by(self, thing: Hashable, version: int) -> bool:
        """Record this version. False if a newer one was delivered already."""
        known = self._versions.pop(thing, 0)
        self._versions[thing] = max(known, version)
        if len(self._versions) > MOST_KNOWN:
            del self._versions[next(iter(self._versions))]
        return version >= known

    def pass_each(self, chat_id: UUID | None, user_ids: Iterable[UUID], version: int) -> bool:
        """Record it for each of these users. False if all of them got a newer one."""
        return any([self.pass_by((chat_id, user_id), version) for user_id in user_ids])  # noqa: C419  # each, not until one


class Order:
    """Stands before `deliver`, for the events of this node and of the others."""

    def __init__(
        self, deliver: Callable[[list[Envelope]], int], is_waiting_worth_it: Callable[[], bool] = lambda: True
    ) -> None:
        self.is_waiting_worth_it = is_waiting_worth_it
        self._deliver = deliver
        self._windows, self._entries, self._mine, self._members, self._removals = (_Newest() for _ in range(5))
        self._waiting: list[list[Envelope]] = []

    def release(self, events: list[Envelope]) -> int:
        """Deliver the events of one commit once it is their turn. Returns how many connections were reached."""
        if (early := self._early(events)) and self.is_waiting_worth_it() and len(self._waiting) < MOST_WAITING:
            held = [event for event in events if event.chat_id in early]
            self._waiting.append(held)
            asyncio.get_running_loop().call_later(WAIT_SECONDS, self._give_up, held)
            events = [event for event in events if event.chat_id not in early]
        reached = self._pass(events)
        while ready := next((held for held in self._waiting if not self._early(held)), None):
            self._waiting.remove(ready)
            reached += self._pass(ready)
        return reached

    def is_behind(self, chat_id: UUID, version: int) -> bool:
        """Whether this version of a chat was not delivered yet; from now on it counts as delivered."""
        return version > self._windows.get(chat_id) and self._windows.pass_by(chat_id, version)

    def was_removed(self, chat_id: UUID | None, user_id: UUID | None, version: int) -> bool:
        """Whether a removal of this user was delivered that is newer than this version of the chat."""
        return self._removals.get((chat_id, user_id)) > version

    def _give_up(self, held: list[Envelope]) -> None:
        if any(waiting is held for waiting in self._waiting):
            self._waiting = [waiting for waiting in self._waiting if waiting is not held]
            self._pass(held)
            self.release([])

    def _early(self, events: list[Envelope]) -> set[UUID | None]:
        """The chats of which an earlier change has not arrived yet."""
        changes = [event for event in events if event.kind is MessagesChanged]
        return {change.chat_id for change in changes if 0 < self._windows.get(change.chat_id) < change.since}

    def _pass(self, events: list[Envelope]) -> int:
        return self._deliver([passed for event in events for passed in self._sift(event)])

    def _sift(self, event: Envelope) -> list[Envelope]:
        """What of an event no newer one has overtaken."""
        is_new = True
        if event.kind is MessagesChanged:
            is_new = self._windows.pass_by(event.chat_id, event.version)
        elif event.kind is ChatsChanged:
            return self._sift_entry(event)
        elif event.kind is ActiveChatSet:
            is_new = not self.was_removed(event.chat_id, event.user_id, event.version)
        return [event] if is_new else []

    def _sift_entry(self, entry: Envelope) -> list[Envelope]:
        if entry.removed_version:
            return [entry] if self._is_new_removal(entry) else []
        is_mine_new = not entry.mine_version or self._is_new_mine(entry)
        is_chat_new = not entry.version or self._entries.pass_by(entry.chat_id, entry.version)
        if is_chat_new and is_mine_new:
            return [entry]
        if is_chat_new:
            return [entry.without("mine")] if entry.version else []
        passed = [entry.without("chats")] if entry.mine_version and is_mine_new else []
        # A message implies that its sender has read it; the newer entry that overtook it does not.
        if entry.user_id and entry.user_id in entry.audience:
            passed.append(resync([entry.user_id], "overtaken"))
        return passed

    def _is_new_removal(self, entry: Envelope) -> bool:
        chat_id, version = entry.chat_id, entry.removed_version
        self._windows.pass_by(chat_id, version)
        self._entries.pass_by(chat_id, version)
        self._removals.pass_each(chat_id, entry.audience, version)
        return self._members.pass_each(chat_id, entry.audience, version)

    def _is_new_mine(self, entry: Envelope) -> bool:
        # With the shared part it may announce a joining, which must not be delivered after a later removal.
        if entry.version and not self._members.pass_each(entry.chat_id, entry.audience, entry.version):
            return False
        return self._mine.pass_each(entry.chat_id, entry.audience, entry.mine_version)
