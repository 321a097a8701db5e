"""What is limited, all nodes count together; without the bus each counts alone."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from chat_app import limits
from chat_app.errors import RateLimited
from chat_app.limits import Limits, SharedCounts
from chat_app.live.bus import connect
from chat_app.models.base import new_id
from tests.cluster.conftest import Valkey

TIMES = limits.PER_PHONE["login"].times


@pytest.fixture
async def two(valkey: Valkey) -> AsyncIterator[list[Limits]]:
    """What two nodes count with."""
    clients = [connect(f"unix://{valkey.path}") for _ in range(2)]
    counting = []
    for client in clients:
        counting.append(Limits(enabled=True))
        counting[-1].shared = SharedCounts(client, lambda: True)
    yield counting
    for client in clients:
        await client.aclose()


async def attempts(counting: list[Limits], phone: str) -> int:
    """How many of many logins, all at once, are let through."""

    async def attempt(node: Limits) -> bool:
        try:
            await node.check_exactly("login", phone=phone)
        except RateLimited:
            return False
        return True

    return sum(await asyncio.gather(*(attempt(node) for node in counting * TIMES)))


async def test_logins_on_two_nodes_are_never_more_than_on_one(two: list[Limits]) -> None:
    let_through = await attempts(two, str(new_id()))
    assert 0 < let_through <= TIMES
    assert await attempts(two, phone := str(new_id())) <= TIMES and await attempts(two, phone) == 0


async def test_commands_are_limited_by_what_the_others_have_told(two: list[Limits]) -> None:
    user_id = new_id()
    times = limits.PER_USER["add_members"].times
    for _ in range(times // 2):
        for node in two:
            node.check("add_members", user=user_id)
    for node in two:
        # What it lets through before it has heard of the others.
        node.check("add_members", user=user_id)
        await shared_of(node).exchange()
    two[0].check("add_members", user=user_id)
    await shared_of(two[0]).exchange()
    for node in two:
        with pytest.raises(RateLimited) as refused:
            node.check("add_members", user=user_id)
        assert 1 <= (refused.value.retry_after or 0) <= 60
        node.check("add_members", user=new_id())


async def test_a_frozen_bus_leaves_each_node_its_own_count(two: list[Limits], valkey: Valkey) -> None:
    valkey.freeze()
    try:
        assert await attempts(two, str(new_id())) == 2 * TIMES
    finally:
        valkey.thaw()


async def test_no_phone_is_kept_on_the_bus(two: list[Limits], valkey: Valkey) -> None:
    await two[0].check_exactly("login", phone="+79165550009")
    async with Redis(unix_socket_path=str(valkey.path)) as client:
        keys = [key async for key in client.scan_iter()]
    assert keys and not any(b"5550009" in key for key in keys)


def shared_of(node: Limits) -> SharedCounts:
    assert node.shared
    return node.shared
