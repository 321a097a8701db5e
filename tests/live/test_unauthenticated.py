"""Connections without a login are cut after a while, and no others."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from prometheus_client import REGISTRY
from websockets.exceptions import ConnectionClosed

from chat_app.live.engine import sockets
from tests.clients import DEADLINE, Person
from tests.raw import PATH, RawSocket, RawStream, frame
from tests.service import Service

Connect = Callable[[Person], Coroutine[Any, Any, RawSocket]]


async def send_nothing(person: Person) -> RawSocket:
    return await RawSocket.open(person.base)


async def be_refused(person: Person) -> RawSocket:
    raw = await RawSocket.open(person.base)
    assert (await raw.join({"token": "garbage"})).startswith("44")
    return raw


async def disconnect(person: Person) -> RawSocket:
    raw = await RawSocket.connected(person.base, person.token)
    await raw.send("41")
    return raw


async def send_other_packets(person: Person) -> RawSocket:
    raw = await RawSocket.open(person.base)
    await raw.send("3", "40/other,{}", '42["list_chats",{}]')
    return raw


def silent_cuts() -> float:
    return REGISTRY.get_sample_value("chat_connections_cut_total", {"reason": "silent"}) or 0


@pytest.mark.parametrize("connect", [send_nothing, be_refused, disconnect, send_other_packets])
async def test_a_connection_without_a_login_is_cut(
    connect: Connect, anna: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = silent_cuts()
    socket = await anna.connect()
    raw = await connect(anna)
    monkeypatch.setattr(sockets, "LOGIN_SECONDS", 0.1)
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(ConnectionClosed):  # noqa: PT012  # any packets may connect before
            while True:
                await raw.receive()
    assert silent_cuts() > before
    # A logged-in connection stays.
    assert (await socket.call("list_chats")).ok


@pytest.mark.one_node
async def test_a_polling_connection_without_a_login_is_cut(
    anna: Person, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "/socket.io/?EIO=4&transport=polling"
    sid = json.loads((await anna.http.get(path)).text[1:])["sid"]
    assert sid in service.socket_server.eio.sockets, "the connection has to exist for this test to mean anything"
    monkeypatch.setattr(sockets, "LOGIN_SECONDS", 0.1)
    # The packet with which Engine.IO closes a transport.
    async with asyncio.timeout(DEADLINE):
        assert (await anna.http.get(f"{path}&sid={sid}")).text.endswith("1")
    assert (await anna.http.get(f"{path}&sid={sid}")).status_code == 400


async def test_a_connection_without_a_login_is_not_cut_early(anna: Person, service: Service) -> None:
    raw = await RawSocket.open(anna.base)
    for _ in range(3):
        await service.socket_server.sweep()
    assert (await raw.join({"token": anna.token})).startswith("40{")
    await raw.close()


@pytest.mark.one_node
async def test_an_upgrade_that_is_not_completed_is_closed(anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "UPGRADE_SECONDS", 0.1)
    sid = json.loads((await anna.http.get("/socket.io/?EIO=4&transport=polling")).text[1:])["sid"]
    for sent in (b"", frame(b"2probe")):
        async with await RawStream.open(anna.base, sent, path=f"{PATH}&sid={sid}") as stream, asyncio.timeout(DEADLINE):
            await stream.close_code()
