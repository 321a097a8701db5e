"""One node whose clock is an hour ahead or behind: it delivers, revokes and catches up like the others."""

import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest

from tests.clients import Person, http_answer, until
from tests.observers import Observer, check_equal, read_anew
from tests.system.conftest import SOCKET, System, brings, history

pytestmark = pytest.mark.timeout(300)

HOUR = 3600


@pytest.fixture(params=[HOUR, -HOUR], ids=["ahead", "behind"])
async def shifted(request: pytest.FixtureRequest, system: System) -> AsyncIterator[System]:
    """Node b has another clock."""
    node = system.nodes[1]
    launcher = node.launcher
    await node.stop()
    node.launcher = (sys.executable, "-m", "tests.shifted_clock", str(request.param))
    await node.start()
    boris = await system.register("Boris", 1)
    await boris.connect()
    is_at = datetime.fromisoformat(boris.socket.named("ready")[0]["server_time"])
    assert abs((is_at - datetime.now(UTC)).total_seconds() - request.param) < 60, "or these tests mean nothing"
    yield system
    await node.stop()
    node.launcher = launcher
    await node.start()


async def test_messages_are_delivered_both_ways_in_one_order(shifted: System) -> None:
    people = [await shifted.register(name, node) for name, node in (("Anna", 0), ("Boris", 1), ("Clara", 1))]
    chat = await SOCKET.create_group(*people)
    for person in people:
        await person.open(chat["id"])
    for sender in (*people, *people):
        sent = await SOCKET.send(sender, chat["id"])
        for person in people:
            await person.socket.wait_for("messages_changed", lambda event, sent=sent: brings(event, sent["seq"]))
    texts = [await history(person, chat["id"]) for person in people]
    assert len(texts[0]) == 7 and texts[0] == texts[1] == texts[2]


async def test_who_was_away_catches_up_at_the_other_node(shifted: System) -> None:
    anna = await shifted.register("Anna", 0)
    for away, back in ((0, 1), (1, 0)):
        boris = await shifted.register("Boris", away)
        chat = await SOCKET.open_private_chat(anna, boris)
        first = await Observer(boris, await boris.connect()).start(chat["id"])
        await SOCKET.send(anna, chat["id"], "seen")
        await boris.socket.wait_for("messages_changed")
        first.apply()
        await boris.socket.close()
        await SOCKET.send(anna, chat["id"], "missed")
        await SOCKET.do(anna, "like_message", chat_id=chat["id"], seq=1)
        moved = await refreshed_at(shifted, back, boris)
        second = Observer(moved, await moved.connect(active_chat_id=chat["id"]))
        await second.come_back(first.model, 50)
        check_equal("Boris", second.model, await read_anew(moved.socket, moved.id, chat["id"]))


async def refreshed_at(system: System, node: int, person: Person) -> Person:
    """The same session at another node, by a refresh as soon as an access token is not accepted there."""
    moved = system.at(node, person)
    if (answer := http_answer(await moved.http.get("/api/v1/users/me"))).ok:
        return moved
    assert answer.code == "token_expired"
    async with httpx.AsyncClient(base_url=system.base(node), verify=False, timeout=30) as http:
        body = {"refresh_token": system.refresh_tokens[person.token]}
        answer = http_answer(await http.post("/api/v1/auth/refresh", json=body))
    return system.person(answer.data["access_token"], person.name, node)


@pytest.mark.parametrize("with_bus", [True, False])
async def test_a_session_ended_at_one_node_ends_at_the_other(with_bus: bool, shifted: System) -> None:
    for here, there in ((0, 1), (1, 0)):
        anna = await shifted.register("Anna", here)
        tablet = await shifted.log_in(shifted.phones[anna.id], "tablet", there)
        await tablet.connect()
        if not with_bus:
            await shifted.set_link("b-bus", "cut")
        started = time.monotonic()
        assert (await anna.http.delete(f"/api/v1/auth/sessions/{tablet.session_id}")).status_code == 204
        usual = time.monotonic() - started
        await tablet.socket.wait_for("session_revoked")
        await until(lambda tablet=tablet: not tablet.socket.client.connected)
        assert time.monotonic() - started < 5 + 10 * usual
        assert http_answer(await tablet.http.get("/api/v1/users/me")).code == "session_revoked"
        await shifted.set_link("b-bus", "open")
