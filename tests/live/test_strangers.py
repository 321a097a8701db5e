"""Transports that never log in, or no longer are: they are given up, and nobody else is."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from prometheus_client import REGISTRY
from websockets.exceptions import ConnectionClosed

from chat_app.live import wire
from tests.clients import DEADLINE, Person
from tests.raw import PATH, RawSocket, RawStream, frame
from tests.service import Service

Come = Callable[[Person], Coroutine[Any, Any, RawSocket]]


async def say_nothing(person: Person) -> RawSocket:
    return await RawSocket.open(person.base)


async def be_refused(person: Person) -> RawSocket:
    raw = await RawSocket.open(person.base)
    assert (await raw.join({"token": "garbage"})).startswith("44")
    return raw


async def say_goodbye(person: Person) -> RawSocket:
    raw = await RawSocket.connected(person.base, person.token)
    await raw.send("41")
    return raw


async def talk_of_other_things(person: Person) -> RawSocket:
    raw = await RawSocket.open(person.base)
    await raw.send("3", "40/other,{}", '42["list_chats",{}]')
    return raw


def given_up() -> float:
    return REGISTRY.get_sample_value("chat_connections_cut_total", {"reason": "silent"}) or 0


@pytest.mark.parametrize("come", [say_nothing, be_refused, say_goodbye, talk_of_other_things])
async def test_who_is_not_logged_in_is_given_up(come: Come, anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    before = given_up()
    socket = await anna.connect()
    raw = await come(anna)
    monkeypatch.setattr(wire, "LOGIN_SECONDS", 0.1)
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(ConnectionClosed):  # noqa: PT012  # any packets may come before
            while True:
                await raw.receive()
    assert given_up() > before
    # Who is logged in stays.
    assert (await socket.call("list_chats")).ok


@pytest.mark.one_node
async def test_also_one_that_polls(anna: Person, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/socket.io/?EIO=4&transport=polling"
    sid = json.loads((await anna.http.get(path)).text[1:])["sid"]
    assert sid in service.live.server.eio.sockets, "or this test means nothing"
    monkeypatch.setattr(wire, "LOGIN_SECONDS", 0.1)
    # The end of the transport, as Engine.IO says it.
    async with asyncio.timeout(DEADLINE):
        assert (await anna.http.get(f"{path}&sid={sid}")).text.endswith("1")
    assert (await anna.http.get(f"{path}&sid={sid}")).status_code == 400


async def test_not_before_its_time(anna: Person, service: Service) -> None:
    raw = await RawSocket.open(anna.base)
    for _ in range(3):
        await service.live.server.sweep()
    assert (await raw.join({"token": anna.token})).startswith("40{")
    await raw.close()


@pytest.mark.one_node
async def test_an_upgrade_that_is_not_completed_is_closed(anna: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "UPGRADE_SECONDS", 0.1)
    sid = json.loads((await anna.http.get("/socket.io/?EIO=4&transport=polling")).text[1:])["sid"]
    for sent in (b"", frame(b"2probe")):
        async with await RawStream.open(anna.base, sent, path=f"{PATH}&sid={sid}") as stream, asyncio.timeout(DEADLINE):
            await stream.close_code()
