"""How often who may do what: one table for both doors.

Counted here and not by the `limits` library: its store in memory walks through all of its keys at every count.
"""

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
from weakref import WeakValueDictionary

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chat_app import metrics
from chat_app.errors import BadCode, BadCredentials, ChatError, RateLimited, TooManyConnections
from chat_app.logs import log
from chat_app.signing import sign


class Rate(NamedTuple):
    times: int
    seconds: int


# Of one user, whatever the door. Everything counts as `any` too.
PER_USER = {
    "any": Rate(1200, 60),
    "send_message": Rate(300, 60),
    "create_group": Rate(30, 60),
    "open_private_chat": Rate(60, 60),
    "add_members": Rate(60, 60),
    "search_users": Rate(120, 60),
    "lookup_user": Rate(20, 60),
    "create_attachment": Rate(60, 60),
    "set_avatar": Rate(20, 60),
    "change_password": Rate(10, 60),
}

# Of one address, for what needs no token; many people may share an address.
PER_ADDRESS = {
    "register": Rate(20, 60),
    "login": Rate(60, 60),
    "refresh": Rate(120, 60),
    "connect": Rate(600, 60),
    "request_code": Rate(20, 60),
    "login_with_code": Rate(30, 60),
    "verify_phone": Rate(30, 60),
    "reset_password": Rate(30, 60),
}

# Of one phone number from one address. Except for `request_code` only wrong passwords and codes count.
PER_PAIR = {
    "login": Rate(5, 900),
    "request_code": Rate(5, 3600),
    "login_with_code": Rate(5, 3600),
    "verify_phone": Rate(5, 3600),
    "reset_password": Rate(5, 3600),
}

# Of one phone number from all addresses. Except for `request_code` only wrong tries count. An address from which a
# living session of the number was opened is not bound by this, so that others can't lock the owner out there.
PER_PHONE = {
    "login": Rate(100, 3600),
    "request_code": Rate(10, 3600),
    "login_with_code": Rate(100, 3600),
    "verify_phone": Rate(100, 3600),
    "reset_password": Rate(100, 3600),
}

# How many connections to one node at a time.
MOST_CONNECTIONS = {"session": 20, "user": 50, "address": 1000}
# Beyond that connects are refused with an error; beyond this transports are, which cost memory without a login.
MOST_TRANSPORTS = 1100

# Of all together, counted where it is named: what costs money.
IN_ALL = {"request_code": Rate(600, 60)}


EXCHANGE_SECONDS = 0.25
EXCHANGE_TIMEOUT = 0.5


def network_of(address: str | None) -> str | None:
    """The address as it is counted: of IPv6 the /64, because one customer has 2**64 addresses."""
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))


class _Window:
    """Counts within a span of time, and forgets everything at its end."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.ends = 0.0
        self.counts: dict[object, int] = {}

    def hit(self, key: object) -> float | None:
        """Count once more; the seconds to wait when it was too often."""
        now = time.monotonic()
        if now >= self.ends:
            self.ends = now + self.rate.seconds
            self.counts = {}
        count = self.counts.get(key, 0)
        if count >= self.rate.times:
            return self.ends - now
        self.counts[key] = count + 1
        return None

    def give_back(self, key: object) -> None:
        """Count once less."""
        if self.counts.get(key, 0) > 1:
            self.counts[key] -= 1
        else:
            self.counts.pop(key, None)


class _Span(NamedTuple):
    """One key's count within one span of time, the same on all nodes."""

    scope: str
    action: str
    key: object
    number: int
    rate: Rate

    @property
    def name(self) -> str:
        # Keyed with the secret: a plain hash of a phone number or an address is reversed by trying all of them.
        signature = sign("limit|", f"{self.scope}|{self.action}|{self.key}")
        return f"chat:limit:{signature.hex()[:32]}:{self.number}"

    @property
    def ends_at(self) -> int:
        return (self.number + 1) * self.rate.seconds


def _span(scope: str, action: str, key: object, rate: Rate) -> _Span:
    return _Span(scope, action, key, int(time.time() // rate.seconds), rate)


class SharedCounts:
    """What all nodes counted together, read every now and then: in between, each node lets through what it knows of."""

    def __init__(self, client: "Redis", is_up: Callable[[], bool]) -> None:
        self._client = client
        self._is_up = is_up
        self._unpublished: Counter[_Span] = Counter()
        # By the time when the spans end: they are forgotten together, as there may be many of an hour.
        self._totals: defaultdict[int, dict[_Span, int]] = defaultdict(dict)

    def hit(self, scope: str, action: str, key: object, rate: Rate) -> float | None:
        """Count once more; the seconds to wait when it was too often."""
        span = _span(scope, action, key, rate)
        if self._totals[span.ends_at].get(span, 0) + min(self._unpublished[span], 0) >= rate.times:
            return span.ends_at - time.time()
        self._unpublished[span] += 1
        return None

    def give_back(self, scope: str, action: str, key: object, rate: Rate) -> None:
        """Count once less."""
        self._unpublished[_span(scope, action, key, rate)] -= 1

    async def exchange(self) -> dict[_Span, int]:
        """Tell what was counted here, and learn the totals. Without a bus each node is left with its own count."""
        told, self._unpublished = self._unpublished, Counter()
        if not told or not self._is_up():
            return {}
        counting = self._client.pipeline(transaction=False)
        for span, count in told.items():
            counting.incrby(span.name, count)
            counting.expire(span.name, span.rate.seconds + 1)
        try:
            async with asyncio.timeout(EXCHANGE_TIMEOUT):
                totals = (await counting.execute())[::2]
        except (RedisError, OSError, TimeoutError):
            return {}
        learned = dict(zip(told, totals, strict=True))
        for span, total in learned.items():
            self._totals[span.ends_at][span] = total
        for ends_at in [known for known in self._totals if known <= time.time()]:
            del self._totals[ends_at]
        return learned

    async def run(self) -> None:
        """Exchange until cancelled."""
        while True:
            await asyncio.sleep(EXCHANGE_SECONDS)
            await self.exchange()


class Limits:
    """Counts what happens; switched off it counts nothing."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.shared: SharedCounts | None = None
        scopes = {"user": PER_USER, "address": PER_ADDRESS, "pair": PER_PAIR, "phone": PER_PHONE, "all": IN_ALL}
        self._windows = {
            (scope, action): _Window(rate) for scope, rates in scopes.items() for action, rate in rates.items()
        }
        self._queues: WeakValueDictionary[tuple[str, str, object], asyncio.Lock] = WeakValueDictionary()

    def check(self, action: str, **who: object) -> None:
        """Count one more `action` of each that is named, such as user, address, phone. Raises RateLimited."""
        if not self.enabled:
            return
        for scope, key in who.items():
            self._hit(scope, action, key)
            if scope == "user":
                self._hit(scope, "any", key)

    async def check_exactly(self, action: str, **who: object) -> None:
        """As `check`, with what the other nodes have counted until now. Raises RateLimited."""
        self.check(action, **who)
        await self._check_others(action, who)

    @asynccontextmanager
    async def attempt(self, action: str, scope: str, key: object) -> AsyncIterator[None]:
        """Count the try in the body only if it raises BadCredentials or BadCode. Raises RateLimited.

        A try is counted before its outcome is known, so parallel ones can't exceed the limit. Tries of one key run
        one after another on this node, so right ones are not refused because of others under way.
        """
        if not self.enabled:
            yield
            return
        who = {scope: key}
        async with self._queues.setdefault((action, scope, key), asyncio.Lock()):
            self.check(action, **who)
            try:
                await self._check_others(action, who)
                yield
            except (BadCredentials, BadCode):
                raise
            except ChatError:
                self._give_back(action, scope, key)
                raise
            self._give_back(action, scope, key)

    def _give_back(self, action: str, scope: str, key: object) -> None:
        window = self._windows[scope, action]
        window.give_back(key)
        if self.shared:
            self.shared.give_back(scope, action, key, window.rate)

    async def _check_others(self, action: str, who: dict[str, object]) -> None:
        if self.enabled and self.shared:
            for span, total in (await self.shared.exchange()).items():
                if total > span.rate.times and span.action == action and who.get(span.scope) == span.key:
                    _refuse(action, span.scope, span.ends_at - time.time())

    def check_connections(self, **counts: int) -> None:
        """Allow one more connection beside these of a session, user, address. Raises TooManyConnections."""
        for scope, count in counts.items():
            if self.enabled and count >= MOST_CONNECTIONS[scope]:
                log.warning("too many connections", by=scope)
                metrics.rate_limited.labels("connect", scope).inc()
                raise TooManyConnections

    def _hit(self, scope: str, action: str, key: object) -> None:
        window = self._windows.get((scope, action))
        if window is None:
            return
        wait = window.hit(key)
        if wait is None and self.shared:
            wait = self.shared.hit(scope, action, key, window.rate)
            if wait is not None:
                window.give_back(key)
        if wait is not None:
            _refuse(action, scope, wait)


def _refuse(action: str, scope: str, wait: float) -> None:
    log.warning("rate limited", action=action, by=scope)
    metrics.rate_limited.labels(action, scope).inc()
    raise RateLimited(retry_after=max(1, math.ceil(wait)))
