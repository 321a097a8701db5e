"""The rules of catching up for lost and simultaneous changes, with the reference client and the service."""

from typing import Any
from uuid import UUID

import pytest

from chat_app.crud import chats
from chat_app.database import Database
from chat_app.models.chats import GroupCreate
from chat_app.models.sessions import Actor
from tests.clients import Person, SocketTransport, Transport
from tests.faults import once_read
from tests.observers import (
    Observer,
    ask_for_unknown,
    catch_up,
    check_equal,
    list_chats,
    read_anew,
    read_missing,
)

SOCKET = SocketTransport()


@pytest.fixture
async def chat(anna: Person, boris: Person) -> str:
    """A group of both. Both are connected."""
    for person in (anna, boris):
        await person.connect()
    created: dict[str, Any] = await SOCKET.create_group(anna, boris)
    return str(created["id"])


async def receive(observer: Observer, *, but: int | None = None) -> None:
    """Apply the events received, except the change of the version `but`, which is lost."""
    await observer.person.settle()
    events = observer.socket.events[observer.applied :]
    observer.applied += len(events)
    for name, event in events:
        if not (name == "messages_changed" and event["version"] == but):
            observer.model.receive(name, event)


async def check(observer: Observer) -> None:
    fresh = await read_anew(observer.socket, observer.person.id, observer.chat_id)
    check_equal(observer.name, observer.model, fresh)


async def test_a_change_during_the_reading_of_a_gap_is_not_lost(
    chat: str, anna: Person, boris: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = await Observer(boris, boris.socket).start(chat)
    lost = await SOCKET.send(anna, chat, "lost")
    await SOCKET.send(anna, chat, "shows the gap")
    await receive(observer, but=lost["version"])
    window = observer.model.window
    assert window and window.has_gap

    async def send() -> None:
        await SOCKET.send(anna, chat, "too new for the answer")

    once_read(monkeypatch, send)
    changes = await SOCKET.do(boris, "list_changes", chat_id=chat, since=window.version)
    await receive(observer)
    observer.model.read_changes(changes)

    assert window.has_gap
    await read_missing(observer.model, boris.socket)
    await check(observer)


async def test_a_member_who_joins_during_list_members_stays_in_the_window(
    transport: Transport, chat: str, anna: Person, boris: Person, clara: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = await Observer(boris, boris.socket).start(chat)

    async def add() -> None:
        await transport.do(anna, "add_members", chat_id=chat, user_ids=[clara.id])

    once_read(monkeypatch, add, of="last_read_seq, joined_at, removed_at")
    answer = await transport.do(boris, "list_members", chat_id=chat)
    await receive(observer)
    observer.model.read_members(answer)

    assert clara.id not in {member["user_id"] for member in answer["items"]}
    await check(observer)


async def test_a_list_of_members_is_at_least_as_new_as_its_version(
    transport: Transport, chat: str, anna: Person, boris: Person, clara: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add() -> None:
        await transport.do(anna, "add_members", chat_id=chat, user_ids=[clara.id])

    version = (await transport.do(boris, "get_chat", chat_id=chat))["version"]
    once_read(monkeypatch, add, of="joined_version")
    answer = await transport.do(boris, "list_members", chat_id=chat)
    assert answer["version"] == version
    assert {member["user_id"]: member["version"] for member in answer["items"]}[clara.id] == version + 1


async def test_list_members_returns_missed_read_positions(chat: str, anna: Person, boris: Person) -> None:
    observer = await Observer(boris, boris.socket).start(chat)
    sent = await SOCKET.send(boris, chat)
    await SOCKET.do(anna, "mark_read", chat_id=chat, seq=sent["seq"])
    await boris.settle()
    observer.applied = len(observer.socket.events)  # all events are lost
    observer.model.read_list(await list_chats(boris.socket, changed_since=observer.model.sync), observer.model.sync)
    await read_missing(observer.model, boris.socket)
    await check(observer)


async def test_an_unknown_chat_that_comes_without_the_own_part_is_asked_for(
    transport: Transport, database: Database, anna: Person, boris: Person
) -> None:
    for person in (anna, boris):
        await person.connect()
    observer = await Observer(boris, boris.socket).start()
    sync = observer.model.sync
    # As on another node whose event is lost.
    async with database.transaction() as db:
        creator, data = Actor(UUID(anna.id), anna.session_id), GroupCreate(title="New", member_ids=[UUID(boris.id)])
        chat, _ = await chats.create_group(db, creator, data)
    await transport.send(anna, str(chat.id))
    await observer.settle()
    assert observer.model.ids_to_ask() == [str(chat.id)] and observer.model.list_state() == {}
    await ask_for_unknown(observer.model, boris.socket)
    assert observer.model.list_state().keys() == {str(chat.id)} and observer.model.sync == sync
    await check(observer)


async def test_of_two_lists_the_sync_of_the_first_covers_both(chat: str, anna: Person, boris: Person) -> None:
    sent = await SOCKET.send(anna, chat)
    await SOCKET.send(anna, (await SOCKET.open_private_chat(anna, boris))["id"])
    await boris.settle()
    observer = await Observer(boris, boris.socket).start()
    await SOCKET.do(anna, "edit_message", chat_id=chat, seq=sent["seq"], text="in no first page")

    top = await SOCKET.do(boris, "list_chats", limit=1)
    assert [entry["id"] for entry in top["items"]] != [chat]
    observer.model.read_list([top])
    await boris.socket.close()
    again = Observer(boris, await boris.connect(active_chat_id=None))
    again.model = observer.model
    await catch_up(again.model, again.socket, 50)
    await check(again)
