"""What several nodes tell of one chat comes in any order; to the connections it goes in the order of its versions.

A change whose predecessor is still on its way waits for it, a moment; what comes when a newer one has been told is
dropped. By chat and not by connection: whoever comes later reads a snapshot that is at least as new.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable
from typing import Any
from uuid import UUID

from chat_app.events import ActiveChatSet, Audience, ChatsChanged, MessagesChanged, Recorded, ResyncRequired

WAIT_SECONDS = 0.1
# What was not touched by so many others since can't be overtaken any more.
MOST_KNOWN = 50_000
MOST_WAITING = 1000


class _Newest:
    """The newest version of each thing that was told."""

    def __init__(self) -> None:
        self._versions: dict[Hashable, int] = {}

    def get(self, thing: Hashable) -> int:
        return self._versions.get(thing, 0)

    def pass_by(self, thing: Hashable, version: int) -> bool:
        """Whether this version is to be told: none that is newer was."""
        known = self._versions.pop(thing, 0)
        self._versions[thing] = max(known, version)
        if len(self._versions) > MOST_KNOWN:
            del self._versions[next(iter(self._versions))]
        return version >= known

    def pass_each(self, chat_id: UUID, user_ids: Iterable[UUID], version: int) -> bool:
        """As pass_by for each of these users, for whom it is the same."""
        return any([self.pass_by((chat_id, user_id), version) for user_id in user_ids])  # noqa: C419  # each, not until one


class Order:
    """Stands before `deliver`, for what this node commits and for what it hears alike."""

    def __init__(
        self, deliver: Callable[[list[Recorded]], int], is_waiting_worth_it: Callable[[], bool] = lambda: True
    ) -> None:
        self.is_waiting_worth_it = is_waiting_worth_it
        self._deliver = deliver
        self._windows = _Newest()
        self._entries = _Newest()
        self._mine = _Newest()
        self._members = _Newest()
        self._removals = _Newest()
        self._waiting: list[list[Recorded]] = []

    def release(self, events: list[Recorded]) -> int:
        """Deliver what one commit released, as soon as its turn has come. Returns how many connections were told."""
        if (early := self._early(events)) and self.is_waiting_worth_it() and len(self._waiting) < MOST_WAITING:
            held = [recorded for recorded in events if _chats_of(recorded.event) & early]
            self._waiting.append(held)
            asyncio.get_running_loop().call_later(WAIT_SECONDS, self._give_up, held)
            events = [recorded for recorded in events if not _chats_of(recorded.event) & early]
        told = self._pass(events)
        while ready := next((held for held in self._waiting if not self._early(held)), None):
            self._waiting.remove(ready)
            told += self._pass(ready)
        return told

    def is_behind(self, chat_id: UUID, version: int) -> bool:
        """Whether this version of a chat was not told yet; from now on it counts as told."""
        return version > self._windows.get(chat_id) and self._windows.pass_by(chat_id, version)

    def was_removed(self, chat_id: UUID | None, user_id: UUID | None, version: int) -> bool:
        """Whether a removal of this user was delivered that is newer than this version of the chat."""
        return self._removals.get((chat_id, user_id)) > version

    def _give_up(self, held: list[Recorded]) -> None:
        if any(waiting is held for waiting in self._waiting):
            self._waiting = [waiting for waiting in self._waiting if waiting is not held]
            self._pass(held)
            self.release([])

    def _early(self, events: list[Recorded]) -> set[UUID]:
        """The chats of which a change has not come yet that was made before."""
        changes = [event for event, _ in events if isinstance(event, MessagesChanged)]
        return {change.chat_id for change in changes if 0 < self._windows.get(change.chat_id) < change.since}

    def _pass(self, events: list[Recorded]) -> int:
        return self._deliver([passed for recorded in events for passed in self._sift(*recorded)])

    def _sift(self, event: Any, audience: Audience) -> list[Recorded]:
        """What of an event is not older than what was told."""
        if isinstance(event, MessagesChanged):
            is_new = self._windows.pass_by(event.chat_id, event.version)
            return [Recorded(event, audience)] if is_new else []
        if isinstance(event, ChatsChanged):
            return self._sift_entries(event, audience)
        if isinstance(event, ActiveChatSet) and self.was_removed(event.chat_id, event.user_id, event.version):
            return []
        return [Recorded(event, audience)]

    def _sift_entries(self, event: ChatsChanged, audience: Audience) -> list[Recorded]:
        told: list[Recorded] = []
        chats = [chat for chat in event.chats if self._entries.pass_by(*_version(chat, "id"))]
        if len(chats) < len(event.chats):
            told += _resync_senders(event, chats, audience)
        removed = [removal for removal in event.removed if self._is_new_removal(*_version(removal), audience)]
        joined = dict(_version(chat, "id") for chat in event.chats)
        mine = [own for own in event.mine if self._is_new_mine(own, joined, audience)]
        if (chats, mine, removed) == (event.chats, event.mine, event.removed):
            return [Recorded(event, audience)]
        if chats or mine or removed:
            kept = event.model_copy(update={"chats": chats, "mine": mine, "removed": removed})
            told.append(Recorded(kept, audience))
        return told

    def _is_new_removal(self, chat_id: UUID, version: int, audience: Audience) -> bool:
        self._windows.pass_by(chat_id, version)
        self._entries.pass_by(chat_id, version)
        self._removals.pass_each(chat_id, audience, version)
        return self._members.pass_each(chat_id, audience, version)

    def _is_new_mine(self, own: Any, joined: dict[UUID, int], audience: Audience) -> bool:
        chat_id, version = _version(own, "chat_id")
        # With the shared part it may tell of a joining, and one must not come after a later removal.
        came = chat_id not in joined or self._members.pass_each(chat_id, audience, joined[chat_id])
        return came and self._mine.pass_each(chat_id, audience, version)


def _resync_senders(event: ChatsChanged, told: list[Any], audience: Audience) -> list[Recorded]:
    """A message tells its sender's other connections that it is read; the newer entry that overtook it does not."""
    senders = {_id(_get(_get(chat, "last_message"), "sender_id")) for chat in event.chats if chat not in told}
    concerned = {sender: 0 for sender in senders if sender in audience}
    return [Recorded(ResyncRequired(reason="overtaken"), concerned)] if concerned else []


def _version(thing: Any, id: str = "chat_id") -> tuple[UUID, int]:
    return _id(_get(thing, id)), _get(thing, "version")


def _get(thing: Any, name: str) -> Any:
    """From a model, or from an object that is ready for the wire."""
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def _id(value: Any) -> Any:
    return UUID(value) if isinstance(value, str) else value


def _chats_of(event: Any) -> set[UUID]:
    if isinstance(event, ChatsChanged):
        changed = [_version(chat, "id")[0] for chat in event.chats]
        return {*changed, *(_version(part)[0] for part in (*event.mine, *event.removed))}
    return {event.chat_id} if isinstance(event, MessagesChanged) else set()
