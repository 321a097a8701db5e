"""Users for tests over HTTP."""

import pytest

from tests.clients import Person
from tests.service import MakePerson


@pytest.fixture
async def anna(make_person: MakePerson) -> Person:
    return await make_person("Anna")


@pytest.fixture
async def boris(make_person: MakePerson) -> Person:
    return await make_person("Boris")
