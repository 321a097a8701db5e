"""What the metrics say of the bus: its delay, what waits for it, what is dropped, and what never arrives."""

import asyncio
import re
import time
from collections.abc import Callable
from uuid import uuid4

import httpx
import pytest
from prometheus_client import REGISTRY

from chat_app.live import bus
from chat_app.live.bus_messages import Online
from chat_app.settings import Settings
from tests.clients import DEADLINE, Person, SocketTransport, until
from tests.cluster.conftest import MakePersonAt, Node, OtherNode, Valkey
from tests.process import Process

SOCKET = SocketTransport()


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


async def test_the_delay_between_nodes_is_measured(person_at: MakePersonAt, other_node: OtherNode) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    chat = await SOCKET.open_private_chat(anna, boris)
    await boris.open(chat["id"])
    before = value("chat_bus_delay_seconds_count")
    await SOCKET.send(anna, chat["id"])
    await until(lambda: value("chat_bus_delay_seconds_count") >= before + 2)

    total = value("chat_bus_delay_seconds_sum")
    unknown_chat = {"kind": "typing_changed", "audience": [], "chat_id": str(uuid4()), "open_chat_id": str(uuid4())}
    await other_node.publish({**unknown_chat, "body": {}}, published_at=time.time() - 60)
    await until(lambda: value("chat_bus_delay_seconds_sum") >= total + 3 * 60)


async def test_what_was_published_but_never_arrives_is_counted(nodes: list[Node], other_node: OtherNode) -> None:
    before = value("chat_bus_missed_total")
    await other_node.publish()
    await other_node.publish_garbage()
    await until(lambda: value("chat_bus_missed_total") >= before + len(nodes))


async def test_what_is_not_published_is_counted(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    down, full = (value("chat_bus_dropped_total", reason=reason) for reason in ("down", "full"))
    monkeypatch.setattr(bus, "MOST_WAITING", 0)
    nodes[0].cluster.bus.publish(online=Online())
    bus.Bus("redis://127.0.0.1:1").publish(online=Online())
    assert value("chat_bus_dropped_total", reason="full") == full + 1
    assert value("chat_bus_dropped_total", reason="down") == down + 1


async def test_what_waits_for_a_frozen_bus_is_counted(
    person_at: MakePersonAt, at: Callable[[str, Person], Person], service_settings: Settings, valkey: Valkey
) -> None:
    anna, boris = await person_at(0, "Anna"), await person_at(1, "Boris")
    chat = await SOCKET.open_private_chat(anna, boris)
    process = Process(service_settings)
    process.environment["CHAT_BUS_URL"] = f"unix://{valkey.path}"
    await process.start()
    moved = at(process.base, anna)
    await moved.connect()

    async def served(pattern: str) -> float:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{process.base}/metrics")).text
        return sum(map(float, re.findall(f"^{pattern} (.*)$", text, re.MULTILINE)))

    try:
        valkey.freeze()
        for pattern in ("chat_bus_waiting", r'chat_bus_dropped_total\{reason="down"\}'):
            async with asyncio.timeout(DEADLINE):
                while not await served(pattern):
                    await SOCKET.send(moved, chat["id"])
        assert not await served("chat_bus_up")
    finally:
        valkey.thaw()
        await process.stop()
