"""A removal reaches a node late or never: a connection may have a chat open only while its user is a member."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import update
from sqlmodel import col

from chat_app.crud import members
from chat_app.database import Database
from chat_app.events import Recorded, recorded
from chat_app.live.connections import Connection
from chat_app.models import Chat
from chat_app.models.chats import MembersAdd
from chat_app.models.sessions import Actor
from tests.clients import Person, SocketTransport, until
from tests.cluster.conftest import MakePersonAt, Node, OtherNode, Valkey
from tests.cluster.test_faults import RESYNC, open_group
from tests.observers import Observer, check_equal, read_anew, read_missing

SOCKET = SocketTransport()


def connections_of(node: Node, person: Person) -> set[Connection]:
    return node.service.live.connections.of_user(UUID(person.id))


@pytest.mark.parametrize("fault", ["killed", "frozen", "cut"])
async def test_a_missed_removal_closes_the_chat_after_the_return_of_the_bus(
    fault: str, person_at: MakePersonAt, nodes: list[Node], valkey: Valkey
) -> None:
    anna, boris, clara = await person_at(0, "Anna"), await person_at(1, "Boris"), await person_at(1, "Clara")
    chat_id = await open_group(anna, boris, clara)
    (connection,) = connections_of(nodes[1], boris)

    match fault:
        case "killed":
            valkey.kill()
        case "frozen":
            valkey.freeze()
        case "cut":
            nodes[1].wire.cut()
    await until(lambda: not nodes[1].cluster.bus.is_up)
    await SOCKET.do(anna, "remove_member", chat_id=chat_id, user_id=boris.id)
    match fault:
        case "killed":
            valkey.start()
        case "frozen":
            valkey.thaw()
        case "cut":
            nodes[1].wire.heal()

    await until(lambda: connection.active_chat_id is None)
    assert [str(each.active_chat_id) for each in connections_of(nodes[1], clara)] == [chat_id]
    await until(lambda: all(node.is_whole for node in nodes))


async def test_without_the_bus_a_removed_member_gets_resync_required_once(
    person_at: MakePersonAt, nodes: list[Node]
) -> None:
    anna, boris, clara = await person_at(0, "Anna"), await person_at(1, "Boris"), await person_at(1, "Clara")
    chat_id = await open_group(anna, boris, clara)
    (connection,) = connections_of(nodes[1], boris)
    nodes[1].wire.cut()
    await until(lambda: not nodes[1].is_whole)
    await SOCKET.do(anna, "remove_member", chat_id=chat_id, user_id=boris.id)
    await boris.socket.wait_for(RESYNC)
    await until(lambda: connection.active_chat_id is None)

    for person in (boris, clara):
        person.socket.events.clear()
    await SOCKET.send(anna, chat_id)
    await clara.socket.wait_for(RESYNC)
    assert (await boris.socket.call("settle")).code == "unknown_command"
    assert boris.socket.named(RESYNC) == []


async def test_a_node_that_rejoins_the_bus_closes_chats_of_missed_removals(
    person_at: MakePersonAt, nodes: list[Node], database: Database
) -> None:
    """Also if no change shows that the removal was missed."""
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    chat_id = await open_group(anna, boris)
    (connection,) = connections_of(nodes[1], boris)
    nodes[1].wire.cut()
    await until(lambda: not nodes[1].cluster.bus.is_up)
    async with database.transaction() as db:
        await members.remove_member(db, Actor(UUID(anna.id), anna.session_id), UUID(chat_id), UUID(boris.id))
        long_ago = update(Chat).where(col(Chat.id) == UUID(chat_id)).values(changed_at=datetime(2020, 1, 1, tzinfo=UTC))
        await db.exec(long_ago)
    nodes[1].wire.heal()
    await until(lambda: connection.active_chat_id is None)


@pytest.mark.parametrize("way", ["command", "handshake", "http"])
async def test_a_late_removal_leaves_a_chat_open_that_was_opened_after_it(
    way: str, person_at: MakePersonAt, other_node: OtherNode, database: Database
) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    group = await SOCKET.create_group(anna, boris)
    chat_id: str = group["id"]
    actor, where, boris_id = Actor(UUID(anna.id), anna.session_id), UUID(chat_id), UUID(boris.id)
    await boris.socket.wait_for("chats_changed")
    observer = await Observer(boris, boris.socket).start()

    late: list[list[Recorded]] = []
    async with database.transaction() as db:
        await members.remove_member(db, actor, where, boris_id)
        late.append(recorded(db))
    async with database.transaction() as db:
        await members.add_members(db, actor, where, MembersAdd(user_ids=[boris_id]))
        late.append(recorded(db))
    match way:
        case "command":
            assert await observer.open(chat_id)
        case "handshake":
            observer = await Observer(boris, await boris.connect(active_chat_id=chat_id)).start()
        case "http":
            response = await boris.http.put("/api/v1/chats/active", json={"chat_id": chat_id})
            observer.model.open(response.json())
    for events in late:
        await other_node.publish_recorded(events)
    await observer.socket.wait_for("chats_changed", lambda event: event["removed"])
    sent = await SOCKET.send(anna, chat_id)
    await observer.socket.wait_for(
        "chats_changed", lambda event: any(chat["version"] == sent["version"] for chat in event["chats"])
    )

    await observer.socket.wait_for("messages_changed", lambda event: event["version"] == sent["version"])
    if way != "handshake":  # its window is the one from before the disconnect
        observer.apply()
        check_equal("Boris", observer.model, await read_anew(boris.socket, boris.id, chat_id))


async def test_a_late_removal_closes_a_chat_that_was_opened_before_it(
    person_at: MakePersonAt, nodes: list[Node], other_node: OtherNode, database: Database
) -> None:
    """Also if the client has read a newest page since, which is newer than the removal."""
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    chat_id = await open_group(anna, boris)
    (connection,) = connections_of(nodes[1], boris)
    observer = await Observer(boris, boris.socket).start(chat_id)
    actor = Actor(UUID(anna.id), anna.session_id)

    async with database.transaction() as db:
        await members.remove_member(db, actor, UUID(chat_id), UUID(boris.id))
        late = recorded(db)
    async with database.transaction() as db:
        await members.add_members(db, actor, UUID(chat_id), MembersAdd(user_ids=[UUID(boris.id)]))
    sent = await SOCKET.send(anna, chat_id)
    await boris.socket.wait_for("messages_changed", lambda event: event["version"] == sent["version"])
    observer.applied = len(boris.socket.events)
    assert [page["reset"] for page in await read_missing(observer.model, boris.socket)] == [True]
    await other_node.publish_recorded(late)
    await boris.socket.wait_for("chats_changed", lambda event: event["removed"])

    observer.apply()
    assert (connection.active_chat_id, observer.model.window) == (None, None)
