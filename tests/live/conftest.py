"""Users for tests over both transports. None is connected: a test that reads events begins with `forget`."""

import pytest

from tests.clients import HttpTransport, Person, SocketTransport, Transport
from tests.service import MakePerson


@pytest.fixture
async def anna(make_person: MakePerson) -> Person:
    return await make_person("Anna")


@pytest.fixture
async def boris(make_person: MakePerson) -> Person:
    return await make_person("Boris")


@pytest.fixture
async def clara(make_person: MakePerson) -> Person:
    return await make_person("Clara")


@pytest.fixture
async def outsider(make_person: MakePerson) -> Person:
    """A user who is in none of the others' chats."""
    return await make_person("Outsider")


@pytest.fixture
def other_transport(transport: Transport, openapi: dict[str, object]) -> Transport:
    """The transport that `transport` is not."""
    return SocketTransport() if isinstance(transport, HttpTransport) else HttpTransport(openapi)
