"""Rate limits: one table, `rates.toml`, for both transports.

Counted here and not by the `limits` library: its store in memory walks through all of its keys at every count.
"""

import asyncio
import math
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from time import time
from typing import Any, NamedTuple, NoReturn
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


# By scope and operation.
RATES = {
    scope: {action: Rate(*rate) for action, rate in rates.items()}
    for scope, rates in tomllib.loads(Path(__file__).with_name("rates.toml").read_bytes().decode()).items()
}

# How many connections to one node at a time.
MOST_CONNECTIONS = {"session": 20, "user": 50, "address": 1000}
# Above these, connects are refused with an error. Above this, transports are: they cost memory without a login.
MOST_TRANSPORTS = 1100

# Made now, so that their values begin at 0.
_refused = {(scope, action): metrics.rate_limited.labels(action, scope) for scope in RATES for action in RATES[scope]}

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


def address_of(scope: Mapping[str, Any]) -> str | None:
    """The address that a client counts by; behind a trusted proxy its own, over a Unix socket none."""
    return network_of((scope.get("client") or [None])[0])


class _Span(NamedTuple):
    """One key within one span of time, the same on all nodes."""

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


@dataclass(slots=True)
class _Count:
    """How often a key was counted within a span: on this node, and on all nodes when they were last read."""

    here: int = 0
    in_all: int = 0


class Limits:
    """Counts operations; with a client of the bus, together with all nodes. Switched off it counts nothing.

    The totals are read four times a second; in between, each node decides by the last ones. Without the bus each node
    has only its own count.
    """

    def __init__(self, *, enabled: bool, client: Redis | None = None, is_up: Callable[[], bool] = lambda: True) -> None:
        self.enabled = enabled
        self._client = client
        self._is_up = is_up
        # By the time when the spans end: they are forgotten together, as there may be many of an hour.
        self._counts: dict[int, dict[_Span, _Count]] = {}
        self._unpublished: Counter[_Span] = Counter()
        self._queues: WeakValueDictionary[tuple[str, str, object], asyncio.Lock] = WeakValueDictionary()

    def check(self, action: str, **who: object) -> None:
        """Count one more `action` of each that is named, such as user, address, phone. Raises RateLimited."""
        if self.enabled:
            for span in _spans(action, who):
                self._hit(span)

    async def check_exactly(self, action: str, **who: object) -> None:
        """As `check`, with what the other nodes have counted until now. Raises RateLimited."""
        self.check(action, **who)
        await self._check_others(_spans(action, who))

    @asynccontextmanager
    async def attempt(self, action: str, scope: str, key: object) -> AsyncIterator[None]:
        """Count the try in the body only if it raises BadCredentials or BadCode. Raises RateLimited.

        A try is counted before its outcome is known, so parallel ones can't exceed the limit. Tries of one key run
        one after another on this node, so right ones are not refused because of others under way.
        """
        if not self.enabled:
            yield
            return
        async with self._queues.setdefault((action, scope, key), asyncio.Lock()):
            (span,) = _spans(action, {scope: key})
            self._hit(span)
            try:
                await self._check_others([span])
                yield
            except ChatError as error:
                if not isinstance(error, BadCredentials | BadCode):
                    self._add(span, -1)
                raise
            self._add(span, -1)

    def check_connections(self, **counts: int) -> None:
        """Allow one more connection beside these of a session, user, address. Raises TooManyConnections."""
        for scope, count in counts.items():
            if self.enabled and count >= MOST_CONNECTIONS[scope]:
                log.warning("too many connections", by=scope)
                metrics.rate_limited.labels("connect", scope).inc()
                raise TooManyConnections

    async def exchange(self) -> dict[_Span, int]:
        """Publish the counts that were not published yet, and read their totals."""
        published, self._unpublished = self._unpublished, Counter()
        if self._client is None or not published or not self._is_up():
            return {}
        counting = self._client.pipeline(transaction=False)
        for span, count in published.items():
            counting.incrby(span.name, count)
            counting.expire(span.name, span.rate.seconds + 1)
        try:
            async with asyncio.timeout(EXCHANGE_TIMEOUT):
                totals = dict(zip(published, (await counting.execute())[::2], strict=True))
        except (RedisError, OSError, TimeoutError):
            return {}
        for span, total in totals.items():
            self._count(span).in_all = total
        return totals

    async def _check_others(self, spans: list[_Span]) -> None:
        for span, total in (await self.exchange()).items():
            if total > span.rate.times and span in spans:
                _refuse(span)

    def _hit(self, span: _Span) -> None:
        count = self._count(span)
        if max(count.here, count.in_all + min(self._unpublished[span], 0)) >= span.rate.times:
            _refuse(span)
        self._add(span, 1)

    def _add(self, span: _Span, times: int) -> None:
        self._count(span).here += times
        if self._client:
            self._unpublished[span] += times

    def _count(self, span: _Span) -> _Count:
        if span.ends_at not in self._counts:
            now = time()
            self._counts = {ends_at: counts for ends_at, counts in self._counts.items() if ends_at > now}
        return self._counts.setdefault(span.ends_at, {}).setdefault(span, _Count())


def _spans(action: str, who: dict[str, object]) -> list[_Span]:
    return [
        _Span(scope, counted, key, int(time() // rate.seconds), rate)
        for scope, key in who.items()
        for counted in (action, "any")
        if (rate := RATES[scope].get(counted))
    ]


def _refuse(span: _Span) -> NoReturn:
    log.warning("rate limited", action=span.action, by=span.scope)
    _refused[span.scope, span.action].inc()
    raise RateLimited(retry_after=max(1, math.ceil(span.ends_at - time())))
