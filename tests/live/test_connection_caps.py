"""The limits of connections to one node for a session, a user and an address."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import websockets

from chat_app import limits
from chat_app.live.engine import server
from chat_app.settings import Settings
from tests.clients import Person, Socket, until
from tests.conftest import free_port
from tests.raw import RawSocket
from tests.service import MakePerson, Service

pytestmark = pytest.mark.one_node

HERE = "127.0.0.1"
Limit = Callable[..., None]


@pytest.fixture
def limit(service: Service, monkeypatch: pytest.MonkeyPatch) -> Limit:
    """`limit(session=2)`: the service counts connections and allows at most so many."""
    monkeypatch.setattr(service.live.limits, "enabled", True)

    def set_limits(**most: int) -> None:
        for scope, number in most.items():
            monkeypatch.setitem(limits.MOST_CONNECTIONS, scope, number)

    return set_limits


async def join(person: Person) -> dict[str, Any] | None:
    """Connect. Returns the problem with which the connect is refused."""
    raw = await RawSocket.open(person.base)
    answer = await raw.join({"token": person.token})
    if answer.startswith("40{"):
        person.sockets.append(raw)  # type: ignore[arg-type]  # to be closed in the end
        return None
    await raw.close()
    assert answer.startswith("44{")
    problem: dict[str, Any] = json.loads(answer[2:])["data"]
    return problem


async def test_a_session_has_a_limit_of_open_connections(service: Service, anna: Person, limit: Limit) -> None:
    limit(session=2)
    assert [await join(anna), await join(anna)] == [None, None]
    problem = await join(anna)
    assert problem and (problem["status"], problem["code"]) == (429, "too_many_connections")
    assert problem["retry_after"] > 0
    await anna.sockets[0].close()
    await until(lambda: len(service.live.connections.of_session(anna.session_id)) == 1)
    assert await join(anna) is None


async def test_a_user_has_a_limit_over_all_sessions(
    anna: Person, boris: Person, make_person: MakePerson, limit: Limit
) -> None:
    limit(session=2, user=3)
    phone = await make_person(again=anna)
    assert [await join(person) for person in (anna, anna, phone)] == [None, None, None]
    problem = await join(phone)
    assert problem and problem["code"] == "too_many_connections"
    assert await join(boris) is None, "others are not concerned"


async def test_simultaneous_connects_do_not_exceed_the_limit(service: Service, anna: Person, limit: Limit) -> None:
    limit(session=3)
    problems = await asyncio.gather(*(join(anna) for _ in range(12)))
    assert problems.count(None) == 3
    assert len(service.live.connections.of_session(anna.session_id)) == 3


async def test_an_address_has_a_limit_also_for_simultaneous_connects(
    service: Service, anna: Person, boris: Person, limit: Limit
) -> None:
    await until(lambda: not service.socket_server.eio.sockets)
    limit(address=4)
    problems = await asyncio.gather(*(join(person) for person in [anna, boris] * 5))
    assert problems.count(None) == 4
    assert {problem["code"] for problem in problems if problem} == {"too_many_connections"}


async def test_connections_without_a_login_are_counted_and_refused(
    service: Service, anna: Person, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: not service.socket_server.eio.sockets)
    limit(address=2)
    monkeypatch.setattr(server, "MOST_TRANSPORTS", 3)
    opened = [await RawSocket.open(anna.base) for _ in range(3)]
    with pytest.raises(websockets.InvalidStatus):
        await RawSocket.open(anna.base)
    answer = await anna.http.get("/socket.io/?EIO=4&transport=polling")
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_connections")
    assert int(answer.headers["retry-after"]) == answer.json()["retry_after"]
    assert len(service.socket_server.eio.sockets) == 3
    for raw in opened:
        await raw.close()
    await until(lambda: not service.socket_server.transports[HERE])
    assert await join(anna) is None


async def test_a_transport_that_ended_in_any_way_is_not_counted(service: Service, anna: Person) -> None:
    raw = await RawSocket.connected(anna.base, anna.token)
    polled = json.loads((await anna.http.get("/socket.io/?EIO=4&transport=polling")).text[1:])["sid"]
    assert service.socket_server.transports[HERE] >= 2
    service.socket_server.eio.sockets.pop(polled)
    raw.socket.transport.abort()
    await until(lambda: not service.socket_server.transports[HERE])


async def test_nothing_is_counted_when_rate_limits_are_off(
    service: Service, anna: Person, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(session=1, user=1, address=1)
    monkeypatch.setattr(service.live.limits, "enabled", False)
    monkeypatch.setattr(server, "MOST_TRANSPORTS", 1)
    assert [await join(anna) for _ in range(3)] == [None] * 3


async def test_clients_behind_a_trusted_proxy_are_counted_by_their_own_addresses(
    service_settings: Settings, anna: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(limits.MOST_CONNECTIONS, "address", 1)
    behind = {"trusted_proxies": [HERE], "rate_limits": "on", "port": free_port()}
    async with Service(service_settings.model_copy(update=behind)) as node:
        sockets = [Socket() for _ in range(3)]
        addresses = ["203.0.113.1", "203.0.113.2", "203.0.113.1"]
        refused: list[Any] = []
        for socket, address in zip(sockets, addresses, strict=True):
            socket.client.on("connect_error", refused.append)
            try:
                await socket.connect(node.base, {"token": anna.token}, headers={"X-Forwarded-For": address})
            except Exception:
                assert address == addresses[2] and socket is sockets[2]
        assert [error["data"]["code"] for error in refused] == ["too_many_connections"]
        for socket in sockets:
            await socket.close()


async def test_the_limits_are_documented(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.base) as http:
        document = (await http.get("/asyncapi.json")).json()
    assert "`too_many_connections`" in document["info"]["description"]
    examples = document["components"]["messages"]["connect_error"]["examples"]
    assert "too_many_connections" in {example["payload"]["data"]["code"] for example in examples}
