"""The addresses of database and bus: what is wrong with one, in a line that shows no part of a password."""

import re
from collections.abc import Iterator
from socket import gaierror
from urllib.parse import urlsplit

from redis.exceptions import AuthenticationError, RedisError

NOT_ENCODED = re.compile(r"[\s\x00-\x1f\x7f]|%(?![0-9A-Fa-f]{2})|%00")
# By SQLSTATE. PostgreSQL's own texts quote what it was sent.
DATABASE_FAULTS = {
    "28P01": "the role or its password is wrong",
    "28000": "the role does not exist, or pg_hba.conf of the server refuses it",
    "3D000": "there is no database of this name",
    "42501": "the role lacks a right: the tables have to belong to it",
    "42704": "an option behind the ? is unknown",
    "22023": "an option behind the ? has a wrong value",
    "55P02": "an option behind the ? can't be set",
    "53300": "the server has no connection left for this role",
    "57P03": "the server is starting or ending",
}


def check(address: str, begin: str, *, expected: str) -> None:
    """Raises ValueError unless the address can be read in one way only."""
    if not re.match(begin, address):
        raise ValueError(f"must begin with {expected}")
    if NOT_ENCODED.search(address):
        raise ValueError("has a space, a control character or a % without its two digits: write %20 and %25")
    # Otherwise a part of the password would be taken for the host, the port or the database, and shown.
    if "@" in re.sub(r"^\w[\w+]*://([^/?#@]*@)?", "", address):
        raise ValueError("has / ? # or @ in its user or password: write %2F %3F %23 %40")
    try:
        is_valid = urlsplit(address).port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError("has a port that is no number from 1 to 65535, or brackets without an IPv6 address")


def database_fault(error: BaseException) -> str:
    """Why the database can't be used."""
    *_, cause = _causes(error)
    state = getattr(cause, "sqlstate", None)
    fault = f"PostgreSQL refuses: {str(cause).partition(chr(10))[0]}" if state else _fault(error)
    return f"CHAT_DATABASE_URL: {DATABASE_FAULTS.get(state or '', fault)}"


def bus_fault(error: BaseException) -> str:
    """Why the bus can't be used."""
    if isinstance(error, AuthenticationError):
        return "CHAT_BUS_URL: the user or password is wrong"
    fault = f"can't be reached: {error}" if isinstance(error, RedisError) else _fault(error)
    return f"CHAT_BUS_URL: {fault}"


def _fault(error: BaseException) -> str:
    # Behind a timeout there is only the cancellation that it made.
    cause = next((cause for cause in _causes(error) if isinstance(cause, OSError)), error)
    if isinstance(cause, gaierror):
        return "the name of the host does not resolve"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError):
        return f"can't be reached: {cause}"
    return f"can't be used, perhaps for an option behind the ? ({type(cause).__name__})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = getattr(error, "orig", None) or error.__cause__
