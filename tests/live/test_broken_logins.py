"""A connection that breaks during its login, or whose end was not noticed, is removed and its user is offline."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from sqlalchemy import text

from tests.clients import Person, SocketTransport, until
from tests.raw import CLOSE, TEXT, RawStream, frame
from tests.service import Service

pytestmark = pytest.mark.one_node

TIMES = 40
# The bytes after the login in the same write.
BREAKS = {
    "a close": frame(b"", CLOSE),
    "a frame without a mask": bytes((TEXT, 1)) + b"3",
    "a reset": b"",
}


def connections_of(service: Service, person: Person) -> int:
    return len(service.live.connections.of_user(UUID(person.id)))


@asynccontextmanager
async def reading_held(service: Service) -> AsyncIterator[None]:
    """In this block logins block on their reads after the connection is registered."""
    async with service.database.engine.connect() as connection:
        await connection.execute(text("LOCK TABLE membership"))
        yield


@pytest.mark.parametrize("how", BREAKS)
async def test_a_connection_that_breaks_during_its_login_is_not_kept(
    how: str, service: Service, anna: Person, boris: Person
) -> None:
    await boris.connect()

    async def log_in_and_break() -> None:
        stream = await RawStream.open(anna.base)
        stream.writer.write(frame(b'40{"token":"%b"}' % anna.token.encode()) + BREAKS[how])
        if BREAKS[how]:
            await stream.close_code()
        await stream.reset()

    await asyncio.gather(*(log_in_and_break() for _ in range(TIMES)))
    # Logins that begin after all these end after them.
    for _ in range(3):
        await (await anna.connect()).close()
    await until(lambda: connections_of(service, anna) == 0)
    await boris.settle()
    assert connections_of(service, anna) == 0
    manager = service.socket_server.manager
    assert not manager.pending_connect and len(manager.rooms["/"][None]) == len(service.live.connections)


async def test_a_session_revoked_during_the_login_leaves_nothing_behind(service: Service, anna: Person) -> None:
    async with reading_held(service):
        stream = await RawStream.open(anna.base)
        stream.writer.write(frame(b'40{"token":"%b"}' % anna.token.encode()))
        await until(lambda: connections_of(service, anna) == 1)
        assert (await anna.http.post("/api/v1/auth/logout")).status_code == 204
        assert connections_of(service, anna) == 0
    async with stream:
        await stream.close_code()
    await until(lambda: not service.socket_server.manager.pending_connect)
    assert all(connection.is_started for connection in service.live.connections)
    assert UUID(anna.id) not in service.live.presence._leaving, "nobody was notified of them yet"


async def test_simultaneous_logins_make_their_user_online(service: Service, anna: Person, boris: Person) -> None:
    await SocketTransport().do(boris, "open_private_chat", user_id=anna.id)
    async with reading_held(service):
        logins = [asyncio.create_task(anna.connect()) for _ in range(2)]
        await until(lambda: connections_of(service, anna) == 2)
    await asyncio.gather(*logins)
    assert (await boris.socket.wait_for("presence_changed"))["user_id"] == anna.id


async def test_a_login_that_breaks_does_not_keep_its_user_online(service: Service, anna: Person) -> None:
    last = await anna.connect()
    async with reading_held(service), await RawStream.open(anna.base) as stream:
        stream.writer.write(frame(b'40{"token":"%b"}' % anna.token.encode()))
        await until(lambda: connections_of(service, anna) == 2)
        await last.close()
        await until(lambda: UUID(anna.id) in service.live.presence._leaving)


async def test_a_connection_whose_transport_is_gone_is_removed(service: Service, anna: Person) -> None:
    await anna.connect()
    (connection,) = service.live.connections.of_user(UUID(anna.id))
    del service.socket_server.eio.sockets[connection.id]
    await until(lambda: connections_of(service, anna) == 0)
    assert UUID(anna.id) in service.live.presence._leaving, "and the peer was notified"
