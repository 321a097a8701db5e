"""A client that does not read is cut, and others are not affected."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from chat_app.live.engine import fast_socket
from chat_app.live.engine.fast_socket import FastSocket
from tests.clients import DEADLINE, Person, SocketTransport
from tests.raw import RawSocket
from tests.service import MakePerson, Service

LONG = "я" * 8000


@pytest.fixture
async def anna(make_person: MakePerson) -> Person:
    return await make_person("Anna", connected=True)


@pytest.fixture
async def boris(make_person: MakePerson) -> Person:
    return await make_person("Boris", connected=True)


@pytest.fixture
async def silent(make_person: MakePerson) -> Person:
    return await make_person("Silent")


@asynccontextmanager
async def reading_nothing(service: Service, silent: Person, chat_id: str) -> AsyncIterator[FastSocket]:
    """Open the chat on a connection that then stops reading. Yields the server's side of it."""
    raw = await RawSocket.connected(service.base, silent.token)
    assert (await raw.call("activate_chat", json.dumps({"chat_id": chat_id})))["ok"]
    # The library reads little ahead, compared with the data sent.
    raw.socket.transport.pause_reading()
    (line,) = lines_of(service, silent)
    yield line
    raw.socket.transport.abort()


def lines_of(service: Service, person: Person) -> list[FastSocket]:
    sockets = service.socket_server.eio.sockets
    return [sockets[connection.id].fast for connection in service.live.connections.of_user(UUID(person.id))]


async def wait_until_disconnected(service: Service, person: Person) -> None:
    async with asyncio.timeout(DEADLINE):
        while service.live.connections.of_user(UUID(person.id)):  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.05)


@pytest.fixture(autouse=True)
def on_the_fast_path(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--fallback"):
        pytest.skip("The libraries don't bound what they keep: only the fast path does.")


async def test_a_connection_with_too_much_unread_data_is_cut(
    service: Service, anna: Person, boris: Person, silent: Person
) -> None:
    transport = SocketTransport()
    chat = await transport.create_group(anna, boris, silent)
    await boris.open(chat["id"])
    most = sent = 0
    async with reading_nothing(service, silent, chat["id"]) as line:
        # The kernel buffers a few MB before the process buffers anything.
        while service.live.connections.of_user(UUID(silent.id)):
            await asyncio.gather(*(transport.send(anna, chat["id"], LONG) for _ in range(20)))
            sent += 20
            most = max(most, line.protocol.transport.get_write_buffer_size())
            assert sent < 5000, "it is never cut"
    assert 0 < most <= 4 * 2**20
    received = [message["seq"] for event in await boris.received("messages_changed") for message in event["messages"]]
    assert received == list(range(2, sent + 2))


async def test_a_connection_that_reads_nothing_for_a_while_is_cut(
    service: Service, anna: Person, silent: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = SocketTransport()
    chat = await transport.open_private_chat(anna, silent)
    async with reading_nothing(service, silent, chat["id"]) as line:
        while not line.protocol.transport.get_write_buffer_size():
            await asyncio.gather(*(transport.send(anna, chat["id"], LONG) for _ in range(20)))
        monkeypatch.setattr(fast_socket, "STALLED_SECONDS", 1)
        await wait_until_disconnected(service, silent)


async def test_a_connection_that_reads_slowly_is_kept(
    service: Service, anna: Person, boris: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_socket, "STALLED_SECONDS", 0.5)
    transport = SocketTransport()
    chat = await transport.open_private_chat(anna, boris)
    for _ in range(5):
        await transport.send(anna, chat["id"])
        await asyncio.sleep(0.5)
    assert len(await boris.received("chats_changed")) >= 5
