"""Events of one chat arrive from several nodes in any order, and are delivered in the order of its versions.

A change waits a moment for its predecessor; one that arrives after a newer one was delivered is dropped. The order is
kept for each chat, not for each connection: who connects later reads a snapshot that is at least as new.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable
from contextvars import Context, copy_context
from uuid import UUID

from chat_app.events import ActiveChatSet, Audience, ChatsChanged, Header, MessagesChanged, Recorded, resync
from chat_app.logs import log_info

WAIT_SECONDS = 0.1
# A version that was followed by so many of others can't be overtaken any more.
MOST_KNOWN = 50_000
MOST_WAITING = 1000

# Events of one commit that wait, with the log context in which they arrived.
Held = tuple[list[Recorded], Context]


class _Newest(dict[Hashable, int]):
    """The newest version of each thing that was delivered."""

    def pass_by(self, thing: Hashable, version: int) -> bool:
        """Record this version. False if a newer one was delivered already."""
        known = self.pop(thing, 0)
        self[thing] = max(known, version)
        if len(self) > MOST_KNOWN:
            del self[next(iter(self))]
        return version >= known

    def pass_each(self, chat_id: UUID | None, user_ids: Iterable[UUID], version: int) -> bool:
        """Record it for each of these users. False if all of them got a newer one."""
        return any([self.pass_by((chat_id, user_id), version) for user_id in user_ids])  # noqa: C419  # each, not until one


class Order:
    """Stands before `deliver`, for the events of this node and of the others."""

    def __init__(self, deliver: Callable[[list[Recorded]], int], is_waiting_worth_it: Callable[[], bool]) -> None:
        self.is_waiting_worth_it = is_waiting_worth_it
        self._deliver = deliver
        self._windows, self._entries, self._mine, self._members, self._removals = (_Newest() for _ in range(5))
        self._waiting: list[Held] = []

    def release(self, events: list[Recorded]) -> int:
        """Deliver the events of one commit in their order. Returns how many connections were reached."""
        if (early := self._early(events)) and self.is_waiting_worth_it() and len(self._waiting) < MOST_WAITING:
            held = [event for event in events if event.header.chat_id in early], copy_context()
            self._waiting.append(held)
            asyncio.get_running_loop().call_later(WAIT_SECONDS, self._give_up, held)
            _log("held back", held[0])
            events = [event for event in events if event.header.chat_id not in early]
        reached = self._pass(events)
        while ready := next((held for held in self._waiting if not self._early(held[0])), None):
            self._let_go(ready)
        return reached

    def is_behind(self, chat_id: UUID, version: int) -> bool:
        """Whether this version of a chat was not delivered yet; from now on it counts as delivered."""
        return version > self._windows.get(chat_id, 0) and self._windows.pass_by(chat_id, version)

    def was_removed(self, chat_id: UUID | None, user_id: UUID | None, version: int) -> bool:
        """Whether a removal of this user was delivered that is newer than this version of the chat."""
        return self._removals.get((chat_id, user_id), 0) > version

    def _give_up(self, held: Held) -> None:
        if any(waiting is held for waiting in self._waiting):
            self._let_go(held)
            self.release([])

    def _let_go(self, held: Held) -> None:
        self._waiting = [waiting for waiting in self._waiting if waiting is not held]
        held[1].run(lambda: log_info("delivered", connections=self._pass(held[0]), held_back=True))

    def _early(self, events: list[Recorded]) -> set[UUID | None]:
        """The chats of which an earlier change has not arrived yet."""
        headers = [event.header for event in events if event.kind is MessagesChanged]
        return {header.chat_id for header in headers if 0 < self._windows.get(header.chat_id, 0) < header.since}

    def _pass(self, events: list[Recorded]) -> int:
        sifted = [(event, self._sift(event)) for event in events]
        _log("overtaken", [event for event, passed in sifted if passed != [event]])
        return self._deliver([event for _, passed in sifted for event in passed])

    def _sift(self, event: Recorded) -> list[Recorded]:
        """What of an event no newer one has overtaken."""
        header, is_new = event.header, True
        if event.kind is MessagesChanged:
            is_new = self._windows.pass_by(header.chat_id, header.version)
        elif event.kind is ChatsChanged and header.removed_version:
            is_new = self._is_new_removal(header, event.audience)
        elif event.kind is ChatsChanged:
            return self._sift_entry(event)
        elif event.kind is ActiveChatSet:
            is_new = not self.was_removed(header.chat_id, header.user_id, header.version)
        return [event] if is_new else []

    def _sift_entry(self, entry: Recorded) -> list[Recorded]:
        header, audience = entry.header, entry.audience
        is_mine_new = not header.mine_version or self._is_new_mine(header, audience)
        if not header.version or self._entries.pass_by(header.chat_id, header.version):
            if is_mine_new:
                return [entry]
            return [entry.without("mine")] if header.version else []
        passed = [entry.without("chats")] if header.mine_version and is_mine_new else []
        # A message implies that its sender has read it; the newer entry that overtook it does not.
        if header.user_id and header.user_id in audience:
            passed.append(resync([header.user_id], "overtaken"))
        return passed

    def _is_new_removal(self, header: Header, audience: Audience) -> bool:
        chat_id, version = header.chat_id, header.removed_version
        self._windows.pass_by(chat_id, version)
        self._entries.pass_by(chat_id, version)
        self._removals.pass_each(chat_id, audience, version)
        return self._members.pass_each(chat_id, audience, version)

    def _is_new_mine(self, header: Header, audience: Audience) -> bool:
        # With the shared part it may announce a joining, which must not be delivered after a later removal.
        if header.version and not self._members.pass_each(header.chat_id, audience, header.version):
            return False
        return self._mine.pass_each(header.chat_id, audience, header.mine_version)


def _log(what: str, events: Iterable[Recorded]) -> None:
    for kind, audience, _, header, *_ in events:
        log_info(what, kind=kind.event, chat=header.chat_id, version=header.version, users=list(audience))
