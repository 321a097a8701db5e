"""What one process tells of a chat goes out in the order of versions, whatever the order in which it hears of it."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from chat_app.events import (
    ActiveChatSet,
    ChatsChanged,
    Event,
    MessagesChanged,
    ReadChanged,
    Recorded,
    ResyncRequired,
    TypingChanged,
)
from chat_app.live.order import Order
from tests.clients import until

CHAT, ANNA, BORIS = uuid4(), uuid4(), uuid4()
BOTH = {ANNA: 0, BORIS: 0}


class Told:
    """Keeps what an Order lets through."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self.order = Order(self.deliver)

    def deliver(self, events: list[Recorded]) -> int:
        self.events += events
        return len(events)

    def after(self, *events: tuple[Event, dict[UUID, int]]) -> list[Event]:
        """What these, of one commit, let through."""
        self.events.clear()
        self.order.release([Recorded(*event) for event in events])
        return [event for event, _ in self.events]


@pytest.fixture
async def told() -> Told:
    return Told()


def change(version: int, since: int | None = None) -> tuple[Event, dict[UUID, int]]:
    event = MessagesChanged(
        chat_id=CHAT, since=version - 1 if since is None else since, version=version, message_count=version
    )
    return event, BOTH


def entry(version: int, sender: UUID = ANNA, **parts: Any) -> tuple[Event, dict[UUID, int]]:
    """As the send path makes it: of plain objects."""
    chat = {"id": CHAT, "version": version, "last_message": {"sender_id": sender}}
    return ChatsChanged.model_construct(**{"chats": [chat], "mine": [], "removed": [], "users": []} | parts), BOTH


def own(mine_version: int, version: int | None, user_id: UUID = BORIS) -> tuple[Event, dict[UUID, int]]:
    """What is personal, with the shared part of a joining or without one."""
    chats = [{"id": CHAT, "version": version, "last_message": None}] if version else []
    mine = [{"chat_id": CHAT, "version": mine_version}]
    return ChatsChanged.model_construct(chats=chats, mine=mine, removed=[], users=[]), {user_id: 0}


def removal(version: int, user_id: UUID = BORIS) -> tuple[Event, dict[UUID, int]]:
    removed = [{"chat_id": CHAT, "version": version}]
    return ChatsChanged.model_construct(chats=[], mine=[], removed=removed, users=[]), {user_id: 0}


async def test_a_change_waits_for_the_one_before_it(told: Told) -> None:
    assert told.after(change(3)), "of what came before the start nobody knows"
    assert told.after(change(5), entry(5)) == told.after(change(6), entry(6)) == []
    versions = [getattr(event, "version", None) for event in told.after(change(4))]
    assert versions == [4, 5, None, 6, None]


async def test_it_does_not_wait_for_ever_and_what_comes_too_late_is_dropped(told: Told) -> None:
    told.after(change(3))
    told.after(change(5))
    await until(lambda: told.events)
    assert told.after(change(4)) == []
    assert told.after(change(6)), "and it goes on from there"
    told.order.is_waiting_worth_it = lambda: False
    assert told.after(change(8)), "without a bus nothing is waited for"


async def test_only_the_chat_that_lacks_something_waits(told: Told) -> None:
    other = MessagesChanged(chat_id=uuid4(), since=1, version=2, message_count=2)
    told.after(change(3))
    assert told.after(change(5), (other, BOTH)) == [other]


async def test_an_entry_that_was_overtaken_is_dropped_and_its_sender_asks(told: Told) -> None:
    assert told.after(entry(5))
    (resync,) = told.after(entry(4, sender=BORIS))
    assert isinstance(resync, ResyncRequired) and told.events[0].audience == {BORIS: 0}
    assert told.after(entry(5)), "of one version there may be several, for several people"
    edited = told.after(change(7))
    assert edited and told.after(entry(6)), "a version that does not change the list overtakes nothing in it"


async def test_what_is_personal_goes_by_its_own_version(told: Told) -> None:
    told.after(entry(9))
    assert told.after(own(4, None)) and told.after(own(3, None)) == []
    assert told.after(own(1, None, ANNA)), "of somebody else"
    (joined,) = told.after(own(5, 8))
    assert isinstance(joined, ChatsChanged) and (joined.chats, len(joined.mine)) == ([], 1)


async def test_a_removal_and_a_later_joining_do_not_pass_each_other(told: Told) -> None:
    told.after(own(2, 6))
    assert told.after(removal(4)) == []
    assert told.after(removal(7))
    assert told.after(own(3, 6)) == told.after(change(6)) == []
    assert told.after(removal(5, ANNA)), "of somebody else"


async def test_a_chat_that_became_active_before_a_removal_is_not_opened_after_it(told: Told) -> None:
    def active(
        version: int, user_id: UUID | None = BORIS, chat_id: UUID | None = CHAT
    ) -> tuple[Event, dict[UUID, int]]:
        return ActiveChatSet(session_id=ANNA, chat_id=chat_id, version=version, user_id=user_id), {}

    told.after(removal(7))
    told.after(own(3, 9))
    assert told.after(active(6)) == []
    for event in (active(7), active(6, ANNA), active(0, chat_id=None), active(0, user_id=None)):
        assert told.after(event) == [event[0]]


async def test_what_has_no_version_always_passes(told: Told) -> None:
    told.after(change(9), entry(9))
    read = ReadChanged(chat_id=CHAT, user_id=ANNA, last_read_seq=1)
    typing = TypingChanged(chat_id=CHAT, user_id=ANNA, typing=True)
    assert told.after((read, BOTH), (typing, BOTH)) == [read, typing]
