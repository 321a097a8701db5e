"""Explains errors in the URLs of database and bus, in one line without any part of a password."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from socket import gaierror
from urllib.parse import urlsplit

import orjson
from pydantic import SecretStr
from redis.exceptions import AuthenticationError, RedisError

NOT_ENCODED = re.compile(r"[\s\x00-\x1f\x7f]|%(?![0-9A-Fa-f]{2})|%00")
# By SQLSTATE. The texts of PostgreSQL quote its input.
DATABASE_FAULTS: dict[str, str] = orjson.loads(Path(__file__).with_name("database_faults.json").read_bytes())


def _check(url: SecretStr, begin: str, *, expected: str) -> SecretStr:
    """Return the URL. Raises ValueError if it is malformed or ambiguous."""
    address = url.get_secret_value()
    if not re.match(begin, address):
        raise ValueError(f"must begin with {expected}")
    if NOT_ENCODED.search(address):
        raise ValueError("has a space, a control character or a % without its two digits: write %20 and %25")
    # Else a part of the password would be parsed as host, port or database, and printed.
    if "@" in re.sub(r"^\w[\w+]*://([^/?#@]*@)?", "", address):
        raise ValueError("has / ? # or @ in its user or password: write %2F %3F %23 %40")
    try:
        is_valid = urlsplit(address).port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError("has a port outside 1 to 65535, or brackets without an IPv6 address")
    return url


check_database = partial(_check, begin=r"postgres(ql)?(\+\w+)?://", expected="postgresql://")
check_bus = partial(_check, begin=r"(redis|valkey)s?://|unix:///", expected="redis:// or valkey://")


def database_fault(error: BaseException) -> str:
    """Explain why the database can't be used."""
    *_, cause = _causes(error)
    state = getattr(cause, "sqlstate", None)
    fault = f"PostgreSQL refuses: {str(cause).partition(chr(10))[0]}" if state else _fault(error)
    return f"CHAT_DATABASE_URL: {DATABASE_FAULTS.get(state or '', fault)}"


def bus_fault(error: BaseException) -> str:
    """Explain why the bus can't be used."""
    if isinstance(error, AuthenticationError):
        return "CHAT_BUS_URL: the user or password is wrong"
    fault = f"can't be reached: {error}" if isinstance(error, RedisError) else _fault(error)
    return f"CHAT_BUS_URL: {fault}"


def _fault(error: BaseException) -> str:
    # The cause of a timeout is the cancellation that it made.
    cause = next((cause for cause in _causes(error) if isinstance(cause, OSError)), error)
    if isinstance(cause, gaierror):
        return "the host name does not resolve"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError):
        return f"can't be reached: {cause}"
    return f"can't be used, perhaps because of an option after the ? ({type(cause).__name__})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = getattr(error, "orig", None) or error.__cause__
