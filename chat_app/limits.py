"""How often who may do what: one table for both doors.

Counted here and not by the `limits` library: its store in memory walks through all of its keys at every count.
"""

import math
import time
from typing import NamedTuple

from chat_app import metrics
from chat_app.errors import RateLimited
from chat_app.logs import log


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

# Of one phone number, whoever asks.
PER_PHONE = {
    "login": Rate(20, 60),
    "request_code": Rate(10, 3600),
    "login_with_code": Rate(20, 3600),
    "verify_phone": Rate(20, 3600),
    "reset_password": Rate(20, 3600),
}

# Of all together: what costs money.
IN_ALL = {"request_code": Rate(600, 60)}


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


class Limits:
    """Counts what happens; switched off it counts nothing."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        scopes = {"user": PER_USER, "address": PER_ADDRESS, "phone": PER_PHONE, "all": IN_ALL}
        self._windows = {
            (scope, action): _Window(rate) for scope, rates in scopes.items() for action, rate in rates.items()
        }

    def check(self, action: str, **who: object) -> None:
        """Count one more `action` of each that is named: user, address, phone. Raises RateLimited."""
        if not self.enabled:
            return
        for scope, key in {**who, "all": None}.items():
            self._hit(scope, action, key)
            if scope == "user":
                self._hit(scope, "any", key)

    def _hit(self, scope: str, action: str, key: object) -> None:
        window = self._windows.get((scope, action))
        wait = window.hit(key) if window else None
        if wait is not None:
            log.warning("rate limited", action=action, by=scope)
            metrics.rate_limited.labels(action, scope).inc()
            raise RateLimited(retry_after=max(1, math.ceil(wait)))
