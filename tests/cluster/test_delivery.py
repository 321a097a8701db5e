"""Events of one node reach their audience on the others, and nobody else."""

import asyncio
from base64 import b64encode
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from chat_app.crud.users import update_me
from chat_app.database import Database
from chat_app.events import recorded
from chat_app.live import order
from chat_app.models.sessions import Actor
from chat_app.models.users import UserUpdate
from chat_app.settings import Settings
from tests.clients import DEADLINE, Person, Socket, SocketTransport, until
from tests.cluster.conftest import MakePersonAt, Node, OtherNode, Valkey
from tests.media.pictures import loaded
from tests.process import Process

SOCKET = SocketTransport()


async def open_group(creator: Person, *members: Person) -> str:
    """A group that all of them have open."""
    group = await SOCKET.create_group(creator, *members)
    for person in (creator, *members):
        await person.open(group["id"])
    chat_id: str = group["id"]
    return chat_id


async def test_a_message_reaches_members_on_every_node_once(person_at: MakePersonAt) -> None:
    anna, boris, clara = [await person_at(place, name) for place, name in enumerate(("Anna", "Boris", "Clara"))]
    outsider = await person_at(1, "Outsider")
    chat_id = await open_group(anna, boris, clara)
    sent = await SOCKET.send(anna, chat_id, "to all")
    again = await SOCKET.send(clara, chat_id, "from another node")
    for person in (anna, boris, clara):
        for message in (sent, again):
            change = await person.socket.wait_for(
                "messages_changed", lambda event, m=message: event["version"] == m["version"]
            )
            shared = change["messages"][0]
            assert shared == {name: message[name] for name in shared}
            entry = await person.socket.wait_for(
                "chats_changed", lambda event, m=message: m["version"] in [chat["version"] for chat in event["chats"]]
            )
            assert entry["chats"][0]["last_message"]["seq"] == message["seq"]
    await SOCKET.send(boris, chat_id, "the last")
    await clara.socket.wait_for("messages_changed", lambda event: event["messages"][0]["text"] == "the last")
    versions = [event["version"] for event in clara.socket.named("messages_changed")]
    assert versions == sorted(set(versions))
    assert {name for name, _ in outsider.socket.events} <= {"ready"}
    assert not any(person.socket.named("resync_required") for person in (anna, boris, clara))


async def test_simultaneous_messages_on_several_nodes_arrive_without_a_gap(
    person_at: MakePersonAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine an earlier change may take longer than a node waits for it.
    monkeypatch.setattr(order, "WAIT_SECONDS", DEADLINE)
    people = [await person_at(place % 3, f"Person {place}") for place in range(6)]
    chat_id = await open_group(*people)
    for person in people:
        person.socket.events.clear()

    async def send_several(person: Person) -> None:
        for _ in range(10):
            await SOCKET.send(person, chat_id)

    await asyncio.gather(*map(send_several, people))
    for person in people:
        await person.socket.wait_for("messages_changed", lambda event: event["message_count"] == 61)
        changes = person.socket.named("messages_changed")
        assert [change["since"] for change in changes[1:]] == [change["version"] for change in changes[:-1]]


async def test_typing_read_positions_and_titles_reach_other_nodes(person_at: MakePersonAt) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    tablet = await person_at(2, "Anna's tablet", again=anna)
    chat_id = await open_group(anna, boris)
    await SOCKET.do(anna, "set_typing", chat_id=chat_id, typing=True)
    assert (await boris.socket.wait_for("typing_changed"))["user_id"] == anna.id
    await SOCKET.send(boris, chat_id)
    await SOCKET.do(anna, "mark_read", chat_id=chat_id, seq=2)
    assert (await boris.socket.wait_for("read_changed"))["last_read_seq"] == 2
    await SOCKET.do(anna, "rename_chat", chat_id=chat_id, title="Mine")
    await tablet.socket.wait_for("chats_changed", lambda event: any(mine["title"] == "Mine" for mine in event["mine"]))
    assert not [event for event in boris.socket.named("chats_changed") if any(m["title"] for m in event["mine"])]


async def test_a_member_removed_on_another_node_gets_the_removal_and_nothing_more(person_at: MakePersonAt) -> None:
    anna, boris, clara = await person_at(0, "Anna"), await person_at(1, "Boris"), await person_at(1, "Clara")
    chat_id = await open_group(anna, boris, clara)
    await SOCKET.do(anna, "remove_member", chat_id=chat_id, user_id=boris.id)
    removal = await boris.socket.wait_for("chats_changed", lambda event: event["removed"])
    assert removal["removed"][0]["chat_id"] == chat_id
    boris.socket.events.clear()
    for sender in (anna, clara):
        secret = await SOCKET.send(sender, chat_id, "secret")
        await clara.socket.wait_for("messages_changed", lambda event, m=secret: event["version"] == m["version"])
    assert await boris.received_all() == []


async def test_a_revoked_session_ends_on_every_node(person_at: MakePersonAt, nodes: list[Node]) -> None:
    anna = await person_at(0, "Anna")
    tablet = await person_at(2, "Anna's tablet", again=anna)
    assert (await anna.http.delete(f"/api/v1/auth/sessions/{tablet.session_id}")).status_code == 204
    await tablet.socket.wait_for("session_revoked")
    assert (await anna.socket.call("list_chats")).ok


async def test_the_active_chat_set_over_http_on_one_node_applies_on_another(
    person_at: MakePersonAt, nodes: list[Node]
) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    chat = await SOCKET.open_private_chat(anna, boris)
    address = f"{nodes[2].service.base}/api/v1/chats/active"
    assert (await anna.http.put(address, json={"chat_id": chat["id"]})).status_code == 200
    for number in range(100):
        sent = await SOCKET.send(boris, chat["id"], str(number))
        await anna.socket.wait_for(
            "chats_changed", lambda event, m=sent: any(c["version"] == m["version"] for c in event["chats"])
        )
        if anna.socket.named("messages_changed"):
            return
    raise AssertionError("no event of the active chat arrived")


async def test_presence_reaches_other_nodes(
    person_at: MakePersonAt, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat_app.live.presence.GRACE_SECONDS", 0.2)
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    await SOCKET.open_private_chat(anna, boris)
    tablet = await person_at(2, "Boris's tablet", again=boris)
    clara = await person_at(2, "Clara")
    await SOCKET.open_private_chat(clara, boris)
    await boris.socket.close()
    late = await clara.connect()
    assert late.named("ready")[0]["online"] == [boris.id], "he is online on another node"
    elsewhere, left = nodes[0].service.live.presence.online.elsewhere, nodes[1].service.cluster.bus.node
    await until(lambda: UUID(boris.id) not in elsewhere[left])
    await anna.settle()
    assert not [event for event in anna.socket.named("presence_changed") if not event["online"]], (
        "the tablet is still online"
    )
    await tablet.socket.close()
    offline = await anna.socket.wait_for("presence_changed", lambda event: not event["online"])
    assert offline["user_id"] == boris.id
    profile = (await anna.http.get(f"/api/v1/users/{boris.id}")).json()
    assert profile["last_seen_at"] == offline["last_seen_at"]
    await boris.connect()
    await anna.socket.wait_for("presence_changed", lambda event: event["online"])


async def test_answers_say_who_is_online_on_other_nodes(person_at: MakePersonAt, nodes: list[Node]) -> None:
    anna, boris, clara = await person_at(0, "Anna"), await person_at(1, "Boris"), await person_at(2, "Clara")
    online = nodes[0].service.live.presence.online
    await until(lambda: all(UUID(person.id) in online for person in (boris, clara)))
    chat_id = await open_group(anna, boris, clara)
    screen = await SOCKET.do(anna, "activate_chat", chat_id=chat_id)
    assert set(screen["online"]) == {anna.id, boris.id, clara.id}
    assert (await anna.http.put("/api/v1/chats/active", json={"chat_id": chat_id})).json()["online"] == screen["online"]
    assert (await anna.http.get(f"/api/v1/users/{boris.id}")).json()["online"] is True


async def test_typing_and_reading_in_a_private_chat_reach_every_connection_of_the_peer(
    person_at: MakePersonAt,
) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    tablet = await person_at(2, "Boris's tablet", again=boris)
    chat = await SOCKET.open_private_chat(anna, boris)
    await SOCKET.send(boris, chat["id"])
    await SOCKET.do(anna, "set_typing", chat_id=chat["id"], typing=True)
    await SOCKET.do(anna, "mark_read", chat_id=chat["id"], seq=1)
    for device in (boris, tablet):
        assert (await device.socket.wait_for("typing_changed"))["user_id"] == anna.id
        assert (await device.socket.wait_for("read_changed"))["last_read_seq"] == 1
    assert anna.socket.named("typing_changed") == []


async def test_urls_of_media_have_the_host_of_the_receiver_on_its_node(person_at: MakePersonAt) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    await SOCKET.open_private_chat(anna, boris)
    phone = Socket()
    boris.sockets.append(phone)
    await phone.connect(boris.base, {"token": boris.token}, headers={"Host": "10.0.2.2:8000"})
    image = b64encode(loaded("PNG")).decode()
    assert (await anna.http.put("/api/v1/users/me/avatar", json={"image": image})).status_code == 200
    for socket, start in ((boris.socket, boris.base), (phone, "http://10.0.2.2:8000")):
        (user,) = (await socket.wait_for("users_changed"))["users"]
        assert user["avatar"]["small"].startswith(f"{start}/media/")


async def test_a_new_name_reaches_private_peers_and_members_who_have_the_chat_open(person_at: MakePersonAt) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    clara, idle = await person_at(2, "Clara"), await person_at(2, "Idle")
    await SOCKET.open_private_chat(anna, boris)
    group = await SOCKET.create_group(anna, boris, clara, idle)
    for person in (boris, clara):
        await person.open(group["id"])
    await anna.http.patch("/api/v1/users/me", json={"name": "Anna Maria"})
    brief = {"id": anna.id, "name": "Anna Maria", "avatar": None}
    for person in (boris, clara):
        assert await person.socket.wait_for("users_changed") == {"users": [brief]}
    sent = await SOCKET.send(anna, group["id"])
    for person in (boris, idle):
        await person.socket.wait_for(
            "chats_changed", lambda event: any(chat["version"] == sent["version"] for chat in event["chats"])
        )
    assert (len(boris.socket.named("users_changed")), idle.socket.named("users_changed")) == (1, [])


async def test_users_changed_reaches_the_peers_at_the_commit(
    person_at: MakePersonAt, other_node: OtherNode, database: Database
) -> None:
    """Also where the event arrives late, and nobody else."""
    anna, boris, clara = await person_at(0, "Anna"), await person_at(1, "Boris"), await person_at(1, "Clara")
    chat = await SOCKET.open_private_chat(anna, boris)
    async with database.transaction() as db:
        await update_me(db, Actor(UUID(anna.id), anna.session_id), UserUpdate(name="Anna Maria"))
        events = recorded(db)
    await SOCKET.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
    await SOCKET.open_private_chat(anna, clara)
    await boris.forget()
    await clara.forget()

    await other_node.publish_recorded(events)
    assert (await boris.socket.wait_for("users_changed"))["users"][0]["name"] == "Anna Maria"
    assert await clara.received_all() == []


async def test_the_log_of_each_node_has_the_request_whose_events_it_delivered(
    person_at: MakePersonAt,
    nodes: list[Node],
    at: Callable[[str, Person], Person],
    service_settings: Settings,
    valkey: Valkey,
) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    chat_id = await open_group(anna, boris)
    process = Process(service_settings)
    process.environment["CHAT_BUS_URL"] = f"unix://{valkey.path}"
    await process.start()
    try:
        await at(process.base, boris).connect(active_chat_id=chat_id)
        sent = {"type": "text", "text": "traced", "client_id": str(uuid4())}
        headers = {"X-Request-ID": "traced"}
        await anna.http.post(f"/api/v1/chats/{chat_id}/messages", json=sent, headers=headers)
        line = await process.wait_for(event="delivered", requests=["traced"])
        assert (line["connections"], line["node"]) == (1, str(nodes[0].cluster.bus.node))
    finally:
        await process.stop()


async def test_only_the_websocket_transport_is_offered(nodes: list[Node], person_at: MakePersonAt) -> None:
    anna = await person_at(0, "Anna")
    answer = await anna.http.get("/socket.io/?EIO=4&transport=polling", headers={"Origin": "http://localhost:5173"})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json()["code"] == "websocket_only" and "websocket" in answer.json()["detail"]
    assert answer.headers["access-control-allow-origin"] == "http://localhost:5173", "web pages may read the answer"
