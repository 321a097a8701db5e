"""The bus is killed, frozen and cut: acks and the own node go on, others catch up, and nothing leaks."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis
from sqlmodel import col, update

from chat_app.database import Database
from chat_app.live import presence
from chat_app.live.bus import CHANNEL
from chat_app.models import User
from chat_app.settings import Settings
from tests.clients import Person, SocketTransport, http_answer, until
from tests.cluster.conftest import MakePersonAt, Node, Valkey
from tests.process import Process

SOCKET = SocketTransport()
RESYNC = "resync_required"


async def open_group(creator: Person, *members: Person) -> str:
    """A group that all of them have open."""
    group = await SOCKET.create_group(creator, *members)
    for person in (creator, *members):
        await person.open(group["id"])
    chat_id: str = group["id"]
    return chat_id


async def wait_for_message(person: Person, message: dict[str, Any]) -> None:
    """Wait until a message has arrived."""
    await person.socket.wait_for("messages_changed", lambda change: change["version"] == message["version"])


async def catch_up(person: Person, chat_id: str, message: dict[str, Any]) -> None:
    """Do what a client does after `resync_required`. It finds the message."""
    await person.socket.wait_for(RESYNC)
    changes = await SOCKET.do(person, "list_changes", chat_id=chat_id, since=message["version"] - 1)
    assert changes["messages"][0]["text"] == message["text"]


async def wait_until_connected(nodes: list[Node], sender: Person, receiver: Person, chat_id: str) -> None:
    """Wait until the nodes receive from each other and a new message is delivered live."""
    await until(lambda: all(node.is_whole for node in nodes))
    await wait_for_message(receiver, await SOCKET.send(sender, chat_id, "live again"))


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_without_a_bus_the_own_node_goes_on_and_others_catch_up(
    fault: str, person_at: MakePersonAt, nodes: list[Node], valkey: Valkey
) -> None:
    anna, dora, boris = await person_at(0, "Anna"), await person_at(0, "Dora"), await person_at(1, "Boris")
    idle, eva = await person_at(2, "Idle"), await person_at(2, "Eva")
    chat_id = await open_group(anna, dora, boris, idle)
    await idle.open(await open_group(idle, eva))
    for person in (boris, idle):
        await person.forget()

    valkey.kill() if fault == "killed" else valkey.freeze()
    message = await SOCKET.send(anna, chat_id, "while the bus is down")
    await wait_for_message(dora, message)
    await catch_up(boris, chat_id, message)
    assert boris.socket.named("messages_changed") == []
    if fault == "killed":
        # With a frozen bus a node may first notice that the others are silent, and then everybody has to resync.
        assert idle.socket.named(RESYNC) == [], "the open chat did not change"

    valkey.start() if fault == "killed" else valkey.thaw()
    # A bus that was only frozen delivers late, and nodes that waited so long need no resync.
    await until(lambda: idle.socket.named(RESYNC) or idle.socket.named("chats_changed"))
    if fault == "killed":
        await catch_up(idle, chat_id, message)
    await wait_until_connected(nodes, anna, boris, chat_id)


async def test_a_killed_subscription_delivers_or_resyncs(
    person_at: MakePersonAt, nodes: list[Node], valkey: Valkey
) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    chat_id = await open_group(anna, boris)
    await boris.forget()
    async with Redis(unix_socket_path=str(valkey.path)) as client:
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    sent = [await SOCKET.send(anna, chat_id, str(number)) for number in range(5)]
    await until(lambda: len(boris.socket.named("messages_changed")) == len(sent) or boris.socket.named(RESYNC))
    await wait_until_connected(nodes, anna, boris, chat_id)


async def test_a_node_cut_off_from_the_bus_delivers_nothing_to_a_removed_member_and_others_catch_up(
    person_at: MakePersonAt, nodes: list[Node]
) -> None:
    anna, boris, clara = await person_at(0, "Anna"), await person_at(1, "Boris"), await person_at(1, "Clara")
    chat_id = await open_group(anna, boris, clara)
    nodes[1].wire.cut()
    await until(lambda: not nodes[1].is_whole)
    await SOCKET.do(anna, "remove_member", chat_id=chat_id, user_id=boris.id)
    for person in (anna, boris, clara):
        await person.forget()

    secret = await SOCKET.send(clara, chat_id, "secret")
    await wait_for_message(clara, secret)
    await SOCKET.do(clara, "set_typing", chat_id=chat_id, typing=True)
    await catch_up(anna, chat_id, secret)
    nodes[1].wire.heal()
    await wait_until_connected(nodes, anna, clara, chat_id)
    await boris.socket.wait_for(RESYNC)
    assert {name for name, _ in await boris.received_all()} == {RESYNC}
    assert (await SOCKET.call(boris, "get_chat", chat_id=chat_id)).code == "chat_not_found"


async def test_a_session_revoked_on_another_node_ends_also_without_the_bus(
    person_at: MakePersonAt, nodes: list[Node]
) -> None:
    anna = await person_at(0, "Anna")
    tablet = await person_at(1, "Anna's tablet", again=anna)
    nodes[1].wire.cut()
    await until(lambda: not nodes[1].is_whole)
    assert (await anna.http.delete(f"/api/v1/auth/sessions/{tablet.session_id}")).status_code == 204
    await tablet.socket.wait_for("session_revoked")


async def test_a_deactivated_user_is_disconnected_on_every_node_also_without_the_bus(
    person_at: MakePersonAt, nodes: list[Node], database: Database
) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    others = [await person_at(place, "Anna's other", again=anna) for place in (1, 2)]
    nodes[1].wire.cut()
    await until(lambda: not nodes[1].is_whole)
    async with database.transaction() as db:
        await db.exec(update(User).where(col(User.id) == UUID(anna.id)).values(is_active=False))
    for person in (anna, *others):
        assert http_answer(await person.http.get("/api/v1/users/me")).code == "session_revoked"
    for person in (anna, *others):
        await until(lambda person=person: person.socket.named("session_revoked"))
        await until(lambda person=person: not person.socket.client.connected)
    assert (await boris.socket.call("list_chats")).ok


async def test_an_active_chat_set_without_the_bus_applies_after_its_return(
    person_at: MakePersonAt, nodes: list[Node]
) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    chat = await SOCKET.open_private_chat(anna, boris)
    nodes[1].wire.cut()
    await until(lambda: not nodes[1].is_whole)
    address = f"{nodes[0].service.base}/api/v1/chats/active"
    assert (await boris.http.put(address, json={"chat_id": chat["id"]})).status_code == 200
    nodes[1].wire.heal()
    await boris.socket.wait_for(RESYNC)
    (connection,) = nodes[1].service.live.connections
    await until(lambda: str(connection.active_chat_id) == chat["id"])
    await wait_until_connected(nodes, anna, boris, chat["id"])


async def test_a_killed_node_takes_its_users_offline_and_causes_a_resync(
    person_at: MakePersonAt,
    nodes: list[Node],
    at: Callable[[str, Person], Person],
    service_settings: Settings,
    valkey: Valkey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence, "GRACE_SECONDS", 0.2)
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    await SOCKET.open_private_chat(anna, boris)
    process = Process(service_settings)
    process.environment["CHAT_BUS_URL"] = f"unix://{valkey.path}"
    await process.start()
    await boris.socket.close()
    moved = at(process.base, boris)
    await moved.connect()
    await until(lambda: not nodes[1].service.live.presence.online.here & {UUID(boris.id)})
    await anna.forget()
    await process.kill()
    await anna.socket.wait_for(RESYNC)
    offline = await anna.socket.wait_for("presence_changed", lambda change: not change["online"])
    assert offline["user_id"] == boris.id


async def test_invalid_messages_on_the_bus_are_ignored(
    person_at: MakePersonAt, nodes: list[Node], valkey: Valkey
) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    chat_id = await open_group(anna, boris)
    await boris.forget()
    head = '{"node":"%s","number":1,"since":0,"is_leaving":true,"events":[{"kind":"%s","audience":[["%s",0]]%s}]}'
    needed = f',"chat_id":"{chat_id}","open_chat_id":"{chat_id}"'
    unknown = ["gone", "ready", "session_revoked"]
    wrong = [
        *((name, "") for name in ("typing_changed", "read_changed", "messages_changed", "chats_changed")),
        ("messages_changed", needed),
        *(("messages_changed", f'{needed},"version":{version}') for version in ("null", '"many"', "[]")),
        ("messages_changed", f'{needed},"version":9,"first_seq":null'),
        ("messages_changed", f'{needed},"version":9,"since":-0.5'),
        ("typing_changed", ',"open_chat_id":"nowhere"'),
        *(("typing_changed", f'{needed},"peer_id":{peer}') for peer in ("7", '"nobody"')),
        ("chats_changed", ',"chat_id":[]'),
    ]
    whole = [head % (chat_id, name, boris.id, fields) + "\n{}" for name, fields in wrong]
    whole += [head % (chat_id, name, boris.id, "") + "\n{}" for name in unknown]
    async with Redis(unix_socket_path=str(valkey.path)) as client:
        for junk in (
            "",
            "[]",
            "\x00",
            '{"node":1}',
            *whole,
            head % (chat_id, "gone", "nobody", "") + "\n{}",
            # A body for each event, and none without one.
            head % (chat_id, "users_changed", boris.id, ""),
            head % (chat_id, "users_changed", boris.id, "") + "\n{}\n{}",
        ):
            await client.publish(CHANNEL, junk)
    await wait_for_message(boris, await SOCKET.send(anna, chat_id))
    assert {name for name, _ in await boris.received_all()} == {"messages_changed", "chats_changed", RESYNC}
    assert len(boris.socket.named(RESYNC)) == len(wrong), (
        "the audience of known events that can't be read has to resync"
    )
    assert anna.socket.named(RESYNC) == []
