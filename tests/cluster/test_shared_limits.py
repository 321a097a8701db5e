"""All nodes count limited operations together. Without the bus each node counts alone."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from chat_app import limits
from chat_app.errors import BadCredentials, RateLimited
from chat_app.limits import Limits, Rate
from chat_app.live.bus import connect
from chat_app.models.base import new_id
from chat_app.settings import Settings
from tests.cluster.conftest import Valkey

TIMES = 20


@pytest.fixture
async def two(
    valkey: Valkey, service_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Limits]]:
    """The limits of two nodes."""
    monkeypatch.setitem(limits.RATES["phone"], "login", Rate(TIMES, 3600))
    # On a busy machine the default timeout would drop late answers.
    monkeypatch.setattr(limits, "EXCHANGE_TIMEOUT", 5.0)
    # No span ends meanwhile.
    now = time.time()
    monkeypatch.setattr(limits, "time", lambda: now)
    clients = [connect(f"unix://{valkey.path}") for _ in range(2)]
    yield [Limits(enabled=True, client=client) for client in clients]
    for client in clients:
        await client.aclose()


async def attempts(counting: list[Limits], phone: str) -> int:
    """The number of simultaneous logins that are allowed."""

    async def attempt(node: Limits) -> bool:
        try:
            await node.check_exactly("login", phone=phone)
        except RateLimited:
            return False
        return True

    return sum(await asyncio.gather(*(attempt(node) for node in counting * TIMES)))


async def test_two_nodes_allow_no_more_logins_than_one(two: list[Limits]) -> None:
    allowed = await attempts(two, str(new_id()))
    assert 0 < allowed <= TIMES
    assert await attempts(two, phone := str(new_id())) <= TIMES and await attempts(two, phone) == 0


async def guess(node: Limits, phone: str, *, is_right: bool = False) -> str:
    """Try a password for this number on this node. Returns `ok` or the code of the error."""
    try:
        async with node.attempt("login", "pair", (phone, "203.0.113.5")):
            if not is_right:
                raise BadCredentials
    except (BadCredentials, RateLimited) as refused:
        return refused.code
    return "ok"


async def test_two_nodes_allow_no_more_wrong_passwords_than_one(two: list[Limits]) -> None:
    times = limits.RATES["pair"]["login"].times
    answers = await asyncio.gather(*(guess(node, "+79165550011") for node in two * times * 2))
    assert 0 < answers.count("bad_credentials") <= times
    one_by_one = [await guess(two[number % 2], "+79165550012") for number in range(times * 2)]
    assert one_by_one == ["bad_credentials"] * times + ["rate_limited"] * times
    assert [await guess(node, "+79165550012", is_right=True) for node in two] == ["rate_limited"] * 2


async def test_right_passwords_on_two_nodes_do_not_count(two: list[Limits]) -> None:
    phone = "+79165550013"
    assert await guess(two[0], phone) == await guess(two[1], phone) == "bad_credentials"
    for _ in range(20):
        # At most one attempt of each node is in flight.
        assert await asyncio.gather(*(guess(node, phone, is_right=True) for node in two * 3)) == ["ok"] * 6
    assert await guess(two[0], phone) == "bad_credentials"


async def test_counts_are_dropped_after_their_span(two: list[Limits], monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for number in range(50):
        await guess(two[0], f"+7916556{number:04d}")
    monkeypatch.setattr(limits, "time", lambda: now + limits.RATES["pair"]["login"].seconds + 1)
    await guess(two[0], "+79165550015")
    assert sum(map(len, two[0]._counts.values())) == 1


async def test_the_keys_on_the_bus_are_keyed_hashes(two: list[Limits], valkey: Valkey) -> None:
    """There are so few numbers and addresses that a plain hash could be found by trying all."""
    number = "+79165550014"
    await guess(two[0], number)
    await two[0].check_exactly("login", phone=number, address="203.0.113.5")
    async with Redis(unix_socket_path=str(valkey.path)) as client:
        keys = {key.decode() async for key in client.scan_iter()}
    tried = [("phone", number), ("address", "203.0.113.5"), ("pair", (number, "203.0.113.5"))]
    plain = {hashlib.sha256(f"{scope} login {key}".encode()).hexdigest()[:32] for scope, key in tried}
    assert keys and not any(key.split(":")[2] in plain or number[1:] in key for key in keys)


async def test_commands_are_limited_by_the_counts_of_other_nodes(two: list[Limits]) -> None:
    user_id = new_id()
    times = limits.RATES["user"]["add_members"].times
    for _ in range(times // 2):
        for node in two:
            node.check("add_members", user=user_id)
    for node in two:
        # Allowed before the node has received the others' counts.
        node.check("add_members", user=user_id)
        await node.exchange()
    two[0].check("add_members", user=user_id)
    await two[0].exchange()
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
