"""JSON as the bytes that are sent: encoded once, and put together without being decoded. No other module does this."""

from collections.abc import Iterable
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def as_json(value: Any) -> bytes:
    """Models, however deep in lists and dictionaries, as JSON."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z)


def construct(model: type[Model], fields: dict[str, Any]) -> Model:
    """A model without validation, of fields that are complete and valid, such as our own rows: a fifth of the time."""
    made = object.__new__(model)
    _set(made, "__dict__", fields)
    _set(made, "__pydantic_fields_set__", _NO_NAMES)
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made


_set = object.__setattr__
_NO_NAMES: set[str] = set()


def preserialized(value: Model, json: bytes) -> Model:
    """A model that does not change any more, with its JSON, which `as_json` then copies."""
    _set(value, "__pydantic_private__", orjson.Fragment(json))
    return value


def extend(json: bytes, **members: Any) -> bytes:
    """Add members to a JSON object that is not empty."""
    return b"%b,%b" % (json[:-1], orjson.dumps(members)[1:])


def array(items: Iterable[bytes]) -> bytes:
    """A JSON array of these JSON values."""
    return b"[%b]" % b",".join(items)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.__pydantic_private__ or value.__dict__
    # The driver has a UUID class of its own.
    return str(value)
