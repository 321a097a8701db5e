"""The answer of an operation, the same for both transports: a status and data."""

from typing import Any, Generic, NamedTuple, TypeVar

Read = TypeVar("Read")


class Created(NamedTuple, Generic[Read]):
    """Something new (201), or something that was there already (200). `seq`: of a message, for the log."""

    data: Read
    is_new: bool
    seq: int | None = None


def status_and_data(result: Any) -> tuple[int, Any]:
    """What an operation returned, as its HTTP status and the data of its answer."""
    if isinstance(result, Created):
        return (201 if result.is_new else 200), result.data
    return (204 if result is None else 200), result
