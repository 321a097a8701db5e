"""One process delivers the changes of a chat in the order of versions, in any order of their arrival."""

from datetime import UTC, datetime
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
    record,
    recorded,
)
from chat_app.live.order import Order
from chat_app.models.chats import ChatMine, ChatShared, ChatType, RemovedChat, RemovedReason
from chat_app.models.messages import MessageType, Preview
from tests.clients import until

CHAT, ANNA, BORIS = uuid4(), uuid4(), uuid4()
NOW = datetime.now(UTC)
BOTH = {ANNA: 0, BORIS: 0}


Given = tuple[Event, dict[UUID, int]]


class Transaction:
    """A database session that records events."""

    def __init__(self) -> None:
        self.info: dict[Any, Any] = {}


class Delivered:
    """Keeps what an Order delivers."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self.is_bus_up = True
        self.order = Order(self.deliver, lambda: self.is_bus_up)

    def deliver(self, events: list[Recorded]) -> int:
        self.events += events
        return len(events)

    def after(self, *events: Given) -> list[Event]:
        """Return the events delivered after these events of one commit."""
        self.events.clear()
        transaction = Transaction()
        for event, audience in events:
            record(transaction, event, audience)
        self.order.release(recorded(transaction))
        return [each.event for each in self.events]


@pytest.fixture
async def delivered() -> Delivered:
    return Delivered()


def change(version: int, since: int | None = None) -> Given:
    since = version - 1 if since is None else since
    return MessagesChanged(chat_id=CHAT, since=since, version=version, message_count=version), BOTH


def shared(version: int, sender: UUID | None) -> ChatShared:
    newest = sender and Preview(
        seq=1, type=MessageType.TEXT, text="", system=None, sender_id=sender, sent_at=NOW, deleted_at=None
    )
    return ChatShared(
        id=CHAT,
        type=ChatType.GROUP,
        member_count=2,
        message_count=version,
        version=version,
        created_at=NOW,
        updated_at=NOW,
        last_message=newest,
    )


def entry(version: int, sender: UUID = ANNA) -> Given:
    return ChatsChanged(chats=[shared(version, sender)]), BOTH


def own(mine_version: int, version: int | None, user_id: UUID = BORIS) -> Given:
    """A `ChatsChanged` with an own part, with the shared part of a joining or without one."""
    mine = ChatMine(
        chat_id=CHAT,
        version=mine_version,
        title=None,
        peer=None,
        pinned_at=None,
        last_read_seq=0,
        others_read_seq=0,
        visible_from_seq=1,
        unread_count=0,
        muted_until=None,
        archived_at=None,
        marked_unread=False,
        draft=None,
        hidden=False,
    )
    return ChatsChanged(chats=[shared(version, None)] if version else [], mine=[mine]), {user_id: 0}


def removal(version: int, user_id: UUID = BORIS) -> Given:
    removed = RemovedChat(chat_id=CHAT, version=version, reason=RemovedReason.REMOVED)
    return ChatsChanged(removed=[removed]), {user_id: 0}


async def test_a_change_waits_for_the_one_before_it(delivered: Delivered) -> None:
    assert delivered.after(change(3)), "the first version of a chat has no known predecessor"
    assert delivered.after(change(5), entry(5)) == delivered.after(change(6), entry(6)) == []
    versions = [getattr(event, "version", None) for event in delivered.after(change(4))]
    assert versions == [4, 5, None, 6, None]


async def test_a_change_does_not_wait_for_ever_and_a_late_one_is_dropped(delivered: Delivered) -> None:
    delivered.after(change(3))
    delivered.after(change(5))
    await until(lambda: delivered.events)
    assert delivered.after(change(4)) == []
    assert delivered.after(change(6)), "the order goes on from there"
    delivered.is_bus_up = False
    assert delivered.after(change(8)), "without a bus no change waits"


async def test_only_the_chat_that_misses_a_change_waits(delivered: Delivered) -> None:
    other = MessagesChanged(chat_id=uuid4(), since=1, version=2, message_count=2)
    delivered.after(change(3))
    assert delivered.after(change(5), (other, BOTH)) == [other]


async def test_an_overtaken_entry_is_dropped_and_its_sender_resyncs(delivered: Delivered) -> None:
    assert delivered.after(entry(5))
    (resync,) = delivered.after(entry(4, sender=BORIS))
    assert isinstance(resync, ResyncRequired) and delivered.events[0].audience == {BORIS: 0}
    assert delivered.after(entry(5)), "one version may have several entries for different users"
    edited = delivered.after(change(7))
    assert edited and delivered.after(entry(6)), "a version without a list entry overtakes no entry"


async def test_own_parts_are_ordered_by_their_own_version(delivered: Delivered) -> None:
    delivered.after(entry(9))
    assert delivered.after(own(4, None)) and delivered.after(own(3, None)) == []
    assert delivered.after(own(1, None, ANNA)), "an event of another user is independent"
    (joined,) = delivered.after(own(5, 8))
    assert isinstance(joined, ChatsChanged) and (joined.chats, len(joined.mine)) == ([], 1)


async def test_a_removal_and_a_later_joining_keep_their_order(delivered: Delivered) -> None:
    delivered.after(own(2, 6))
    assert delivered.after(removal(4)) == []
    assert delivered.after(removal(7))
    assert delivered.after(own(3, 6)) == delivered.after(change(6)) == []
    assert delivered.after(removal(5, ANNA)), "an event of another user is independent"


async def test_a_chat_that_became_active_before_a_removal_is_not_opened_after_it(delivered: Delivered) -> None:
    def active(version: int, user_id: UUID | None = BORIS, chat_id: UUID | None = CHAT) -> Given:
        return ActiveChatSet(session_id=ANNA, chat_id=chat_id, version=version, user_id=user_id), {}

    delivered.after(removal(7))
    delivered.after(own(3, 9))
    assert delivered.after(active(6)) == []
    for event in (active(7), active(6, ANNA), active(0, chat_id=None), active(0, user_id=None)):
        assert delivered.after(event) == [event[0]]


async def test_events_without_a_version_are_always_delivered(delivered: Delivered) -> None:
    delivered.after(change(9), entry(9))
    read = ReadChanged(chat_id=CHAT, user_id=ANNA, last_read_seq=1)
    typing = TypingChanged(chat_id=CHAT, user_id=ANNA, typing=True)
    assert delivered.after((read, BOTH), (typing, BOTH)) == [read, typing]


def test_an_event_of_several_chats_is_not_recorded() -> None:
    """They would have to be ordered one by one."""
    several, transaction = ChatsChanged(chats=[shared(4, ANNA), shared(4, ANNA)]), Transaction()
    with pytest.raises(ValueError, match="several chats"):
        record(transaction, several, BOTH)
    assert recorded(transaction) == []
