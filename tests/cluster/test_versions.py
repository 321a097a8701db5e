"""Nodes of two versions of the service side by side: what one of them does not know costs nobody a resync."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from chat_app.live.bus import CHANNEL
from tests.clients import Person, SocketTransport
from tests.cluster.conftest import MakePersonAt, Node, OtherNode, Valkey
from tests.cluster.test_faults import RESYNC, open_group

SOCKET = SocketTransport()
Json = dict[str, Any]


@asynccontextmanager
async def published(valkey: Valkey) -> AsyncIterator[list[Json]]:
    """The events that nodes publish meanwhile, as they are on the bus; complete at the end of the block."""
    events: list[Json] = []
    async with Redis(unix_socket_path=str(valkey.path)) as client, client.pubsub() as subscription:
        await subscription.subscribe(CHANNEL)
        await subscription.get_message(timeout=5)
        yield events
        await client.publish(CHANNEL, "the end")
        while (message := await subscription.get_message(timeout=5)) and message["data"] != b"the end":
            events += json.loads(message["data"])["events"]


def next_change(events: list[Json]) -> tuple[Json, Json]:
    """`MessagesChanged` and `ChatsChanged` of a message, as they would be for the next version."""
    by_name = {event["event"]: event for event in events}
    window, entry = by_name["MessagesChanged"], by_name["ChatsChanged"]
    window["audience"] = entry["audience"] = window["audience"] or entry["audience"]
    for part in (window["data"], window["data"]["messages"][0], entry["data"]["chats"][0]):
        part["version"] += 1
    window["data"]["since"] += 1
    return window, entry


async def assert_nobody_resyncs(nodes: list[Node], *people: Person) -> None:
    """Also not soon: what was missed is gathered for a moment first."""
    assert not any(person.socket.named(RESYNC) for person in people)
    assert not any(node.cluster._resync for node in nodes)


async def test_what_a_newer_node_adds_is_left_out(
    person_at: MakePersonAt, nodes: list[Node], valkey: Valkey, other_node: OtherNode
) -> None:
    anna, boris, idle = await person_at(0, "Anna"), await person_at(1, "Boris"), await person_at(1, "Idle")
    chat_id = await open_group(anna, boris)
    async with published(valkey) as events:
        await SOCKET.send(anna, chat_id)
    window, entry = next_change(events)
    first, listed = [(await boris.socket.wait_for(name)) for name in ("messages_changed", "chats_changed")]
    await boris.forget()

    for part in (window, window["data"], window["data"]["messages"][0], entry["data"]["chats"][0]["last_message"]):
        part["added_later"] = {"deep": [1]}
    added = {"event": "AddedLater", "data": {"chat_id": chat_id}, "audience": window["audience"], "added_later": 1}
    await other_node.publish(added, added_later=True)
    await other_node.publish(added, window, entry, {"event": "AddedWithoutData"}, added_later=True)

    change, changed = [(await boris.socket.wait_for(name)) for name in ("messages_changed", "chats_changed")]
    assert change["version"] == first["version"] + 1
    assert change.keys() == first.keys() and change["messages"][0].keys() == first["messages"][0].keys()
    assert changed["chats"][0]["last_message"].keys() == listed["chats"][0]["last_message"].keys()
    await assert_nobody_resyncs(nodes, anna, boris, idle)


async def test_what_an_older_node_leaves_out_takes_its_default(
    person_at: MakePersonAt, nodes: list[Node], valkey: Valkey, other_node: OtherNode
) -> None:
    anna, boris, idle = await person_at(0, "Anna"), await person_at(1, "Boris"), await person_at(1, "Idle")
    chat_id = await open_group(anna, boris)
    async with published(valkey) as events:
        await SOCKET.send(anna, chat_id)
    window, entry = next_change(events)
    await boris.forget()

    for part, names in (
        (window["data"], ("members", "users")),
        (window["data"]["messages"][0], ("payload", "reply_to", "edited_at", "like_count")),
        (entry["data"], ("mine", "removed", "users")),
        (entry["data"]["chats"][0], ("title",)),
        (entry["data"]["chats"][0]["last_message"], ("payload", "deleted_at")),
    ):
        for name in names:
            del part[name]
    del entry["audience"]
    await other_node.publish(window, entry)

    change, changed = [(await boris.socket.wait_for(name)) for name in ("messages_changed", "chats_changed")]
    assert (change["members"], change["users"], changed["mine"], changed["removed"]) == ([], [], [], [])
    assert (change["messages"][0]["payload"], change["messages"][0]["like_count"]) == (None, 0)
    assert (changed["chats"][0]["title"], changed["chats"][0]["last_message"]["payload"]) == (None, None)
    await assert_nobody_resyncs(nodes, anna, boris, idle)


async def test_of_an_event_that_lacks_what_it_needs_only_its_audience_resyncs(
    person_at: MakePersonAt, nodes: list[Node], valkey: Valkey, other_node: OtherNode
) -> None:
    anna, boris, idle = await person_at(0, "Anna"), await person_at(1, "Boris"), await person_at(1, "Idle")
    chat_id = await open_group(anna, boris)
    async with published(valkey) as events:
        await SOCKET.send(anna, chat_id)
    window, entry = next_change(events)
    await boris.forget()

    window["audience"] = entry["audience"] = [[boris.id, 1]]
    del window["data"]["chat_id"]
    await other_node.publish(window, entry)

    await boris.socket.wait_for("chats_changed")
    assert [event["reason"] for event in boris.socket.named(RESYNC)] == ["not_understood"]
    assert boris.socket.named("messages_changed") == []
    await assert_nobody_resyncs(nodes, anna, idle)


async def test_a_packet_that_is_garbage_as_a_whole_counts_as_missed(
    person_at: MakePersonAt, other_node: OtherNode
) -> None:
    boris, idle = await person_at(1, "Boris"), await person_at(2, "Idle")
    await other_node.publish()
    await other_node.publish_garbage()
    for person in (boris, idle):
        assert (await person.socket.wait_for(RESYNC))["reason"] == "missed"
