"""`extra`: a free JSON object that clients attach to a message or to their user. The service never reads it."""

from typing import Annotated, Any

import orjson
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from sqlalchemy import JSON

from chat_app.models.base import LIMITS, NO_NUL

# The object itself is the first level.
MOST_LEVELS = 5


class ExtraJson(JSON):
    """A column for it, as text: jsonb would write 1e-300 with 300 zeros."""

    def compare_values(self, x: Any, y: Any) -> bool:
        # To Python True equals 1.
        return canonical(x) == canonical(y)


def canonical(value: Any) -> bytes:
    """The same bytes for equal JSON: keys are sorted, and 1.0 is 1."""
    return orjson.dumps(_whole(value), option=orjson.OPT_SORT_KEYS)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_whole(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check(value: Any, levels: int = MOST_LEVELS) -> None:
    if isinstance(value, str) and "\x00" in value:
        raise PydanticCustomError("string_pattern_mismatch", "NUL", {"pattern": NO_NUL})
    # A whole number of more than 64 bits was read as a float, without its last digits.
    if isinstance(value, float) and not -(2**63) <= value < 2**64:
        raise PydanticCustomError("not_storable", "not storable")
    if isinstance(value, dict | list) and not levels:
        raise PydanticCustomError("too_deep", "too deep", {"levels": MOST_LEVELS})
    if isinstance(value, dict | list):
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            _check(part, levels - 1)


def _at_most(most: int) -> AfterValidator:
    def check(value: dict[str, Any]) -> dict[str, Any]:
        _check(value)
        try:
            size = len(orjson.dumps(value))
        except TypeError as error:  # an unpaired surrogate, or a number past 64 bits
            raise PydanticCustomError("not_storable", "not storable") from error
        if size > most:
            raise PydanticCustomError("too_large", "too large", {"most": most})
        return value

    return AfterValidator(check)


MessageExtra = Annotated[dict[str, Any], _at_most(LIMITS["extra_bytes"])]
UserExtra = Annotated[dict[str, Any], _at_most(LIMITS["user_extra_bytes"])]
