"""Nodes of two versions of the service side by side: fields and events that one does not know cause no resync."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from chat_app.live.bus import CHANNEL
from tests.clients import Person, SocketTransport
from tests.cluster.conftest import Json, MakePersonAt, Node, OtherNode, Valkey, events_in
from tests.cluster.test_faults import RESYNC, open_group

SOCKET = SocketTransport()


@asynccontextmanager
async def published(valkey: Valkey) -> AsyncIterator[list[Json]]:
    """The events that nodes publish in this block, as they are on the bus: those that another node received in it."""
    events: list[Json] = []
    async with Redis(unix_socket_path=str(valkey.path)) as client, client.pubsub() as subscription:
        await subscription.subscribe(CHANNEL)
        await subscription.get_message(timeout=5)
        yield events
        await client.publish(CHANNEL, "the end")
        while (message := await subscription.get_message(timeout=5)) and message["data"] != b"the end":
            events += events_in(message["data"])


def next_change(events: list[Json]) -> tuple[Json, Json]:
    """`messages_changed` and `chats_changed` of a message, as they would be for the next version."""
    by_name = {event["kind"]: event for event in events}
    window, entry = by_name["messages_changed"], by_name["chats_changed"]
    window["audience"] = entry["audience"] = window["audience"] or entry["audience"]
    for part in (window, window["body"], window["body"]["messages"][0], entry, entry["body"]["chats"][0]):
        part["version"] += 1
    for part in (window, window["body"]):
        part["since"] += 1
    return window, entry


async def assert_no_resync(nodes: list[Node], *people: Person) -> None:
    """Also none that waits: nodes collect resyncs for a moment."""
    assert not any(person.socket.named(RESYNC) for person in people)
    assert not any(node.cluster._resync for node in nodes)


async def test_additions_in_the_headers_of_a_newer_node_are_ignored(
    person_at: MakePersonAt, nodes: list[Node], valkey: Valkey, other_node: OtherNode
) -> None:
    anna, boris, idle = await person_at(0, "Anna"), await person_at(1, "Boris"), await person_at(1, "Idle")
    chat_id = await open_group(anna, boris)
    async with published(valkey) as events:
        await SOCKET.send(anna, chat_id)
        await boris.socket.wait_for("messages_changed")
    window, entry = next_change(events)
    first, listed = [(await boris.socket.wait_for(name)) for name in ("messages_changed", "chats_changed")]
    await boris.forget()

    window["added_later"] = entry["added_later"] = {"deep": [1]}
    body = {"chat_id": chat_id}
    added = {"kind": "added_later", "audience": window["audience"], "body": body, "added_later": 1}
    await other_node.publish(added, added_later=True)
    await other_node.publish(added, window, entry, {"kind": "added_without_anything"}, added_later=True)

    change, changed = [(await boris.socket.wait_for(name)) for name in ("messages_changed", "chats_changed")]
    assert change["version"] == first["version"] + 1
    assert change.keys() == first.keys() and change["messages"][0].keys() == first["messages"][0].keys()
    assert changed["chats"][0]["last_message"].keys() == listed["chats"][0]["last_message"].keys()
    assert {name for name, _ in await boris.received_all()} == {"messages_changed", "chats_changed"}
    await assert_no_resync(nodes, anna, boris, idle)


async def test_fields_missing_in_the_events_of_an_older_node_cause_no_resync(
    person_at: MakePersonAt, nodes: list[Node], valkey: Valkey, other_node: OtherNode
) -> None:
    anna, boris, idle = await person_at(0, "Anna"), await person_at(1, "Boris"), await person_at(1, "Idle")
    chat_id = await open_group(anna, boris)
    async with published(valkey) as events:
        await SOCKET.send(anna, chat_id)
        await boris.socket.wait_for("messages_changed")
    window, entry = next_change(events)
    await boris.forget()

    changes, listed = window["body"], entry["body"]
    message = changes["messages"][0]
    headers = (window, ("since", "first_seq")), (entry, ("audience", "user_id", "version"))
    bodies = (changes, ("replied",)), (listed, ("users",)), (listed["chats"][0], ("last_user_seq", "avatar"))
    for part, names in (*headers, *bodies, (message, ("location", "contact", "system"))):
        for name in names:
            del part[name]
    message["payload"] = entry["body"]["chats"][0]["last_message"]["payload"] = None
    await other_node.publish(window, entry)

    change, changed = [(await boris.socket.wait_for(name)) for name in ("messages_changed", "chats_changed")]
    assert (change, changed) == (window["body"], entry["body"]), "as the other node encoded it"
    await assert_no_resync(nodes, anna, boris, idle)


async def test_typing_of_an_older_node_reaches_only_the_open_chat(
    person_at: MakePersonAt, nodes: list[Node], valkey: Valkey, other_node: OtherNode
) -> None:
    """It names no peer of a private chat."""
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    window = await boris.connect()
    chat = await SOCKET.open_private_chat(anna, boris)
    assert (await window.call("activate_chat", {"chat_id": chat["id"]})).ok
    await boris.socket.call("activate_chat", {"chat_id": None})
    async with published(valkey) as events:
        await SOCKET.do(anna, "set_typing", chat_id=chat["id"], typing=True)
        await boris.socket.wait_for("typing_changed")
    (typing,) = [event for event in events if event["kind"] == "typing_changed"]
    assert (typing["peer_id"], typing["open_chat_id"]) == (boris.id, chat["id"])
    await boris.forget()

    del typing["peer_id"]
    await other_node.publish(typing)

    await window.wait_for("typing_changed")
    assert await boris.received("typing_changed") == []
    await assert_no_resync(nodes, anna, boris)


async def test_an_event_without_a_required_field_resyncs_only_its_audience(
    person_at: MakePersonAt, nodes: list[Node], valkey: Valkey, other_node: OtherNode
) -> None:
    anna, boris, idle = await person_at(0, "Anna"), await person_at(1, "Boris"), await person_at(1, "Idle")
    chat_id = await open_group(anna, boris)
    async with published(valkey) as events:
        await SOCKET.send(anna, chat_id)
        await boris.socket.wait_for("messages_changed")
    window, entry = next_change(events)
    await boris.forget()

    window["audience"] = entry["audience"] = [[boris.id, 1]]
    del window["open_chat_id"]
    await other_node.publish(window, entry)

    await boris.socket.wait_for("chats_changed")
    assert [event["reason"] for event in boris.socket.named(RESYNC)] == ["not_understood"]
    assert boris.socket.named("messages_changed") == []
    await assert_no_resync(nodes, anna, idle)


async def test_an_unreadable_packet_counts_as_missed(person_at: MakePersonAt, other_node: OtherNode) -> None:
    boris, idle = await person_at(1, "Boris"), await person_at(2, "Idle")
    await other_node.publish()
    await other_node.publish_garbage()
    for person in (boris, idle):
        assert (await person.socket.wait_for(RESYNC))["reason"] == "missed"
