"""People for tests through the doors. Nobody is connected yet: whoever listens begins with `forget`."""

import pytest

from tests.clients import Door, HttpDoor, Person, SocketDoor
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
async def stranger(make_person: MakePerson) -> Person:
    """Somebody who is in none of the others' chats."""
    return await make_person("Stranger")


@pytest.fixture
def other_door(door: Door, openapi: dict[str, object]) -> Door:
    """The one of both doors that `door` is not."""
    return SocketDoor() if isinstance(door, HttpDoor) else HttpDoor(openapi)
