"""What all models share: the input base, column types, constrained strings and numbers."""

from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_extra_types.phone_numbers import PhoneNumberValidator
from sqlalchemy import BigInteger, func
from sqlalchemy import Enum as SAEnum
from sqlmodel import SQLModel
from uuid_utils.compat import uuid7

from chat_app.errors import InvalidInput
from chat_app.settings import get_settings

BIGGEST = 2**53 - 1  # the greatest integer that a JavaScript client reads back unchanged

# Part of the contract; `ready` contains them.
LIMITS = {
    "text_length": 8000,
    "extra_bytes": 4096,
    "user_extra_bytes": 2048,
    "name_length": 100,
    "title_length": 100,
    "draft_length": 2000,
    "page": 100,
    "members": 256,
    "members_at_once": 100,
    "attachment_bytes": 25 * 1024 * 1024,
    "avatar_bytes": 10 * 1024 * 1024,
    "reaction_kinds": 20,
    "own_reactions": 3,
    "pinned_messages": 50,
}

# PostgreSQL can't store NUL. Lone surrogates pydantic refuses by itself.
NO_NUL = r"^[^\x00]*$"
ONE_LINE = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"

Line = Annotated[str, StringConstraints(min_length=1, max_length=LIMITS["name_length"], pattern=ONE_LINE)]
Body = Annotated[str, StringConstraints(min_length=1, max_length=LIMITS["text_length"], pattern=NO_NUL)]
Opaque = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[A-Za-z0-9._~=-]+$")]
# Values that only the service makes; the format is for generators of test data.
ChatCursor = Annotated[Opaque, Field(json_schema_extra={"format": "chat-cursor"})]
SearchCursor = Annotated[Opaque, Field(json_schema_extra={"format": "search-cursor"})]
UserCursor = Annotated[Opaque, Field(json_schema_extra={"format": "user-cursor"})]
ReactionCursor = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,16}$")]
# Older releases wrote numbers like 1E+4; an unescaped plus arrives as a space.
Sync = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500, pattern=r"^[A-Za-z0-9._~=+ -]+$"),
    Field(json_schema_extra={"format": "sync"}),
]


def _text(value: Any) -> Any:
    # A number would be taken as seconds.
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "not a text")
    return value


def _storable(time: datetime) -> datetime:
    # PostgreSQL and Python do not hold the same times.
    if not datetime(2000, 1, 1, tzinfo=UTC) <= time < datetime(9999, 1, 1, tzinfo=UTC):
        raise PydanticCustomError("time_out_of_range", "out of range")
    return time


Time = Annotated[AwareDatetime, BeforeValidator(_text), AfterValidator(_storable)]
# Strict: neither true nor "1" is a number.
Seq = Annotated[int, Field(ge=1, le=BIGGEST, strict=True)]
Position = Annotated[int, Field(ge=0, le=BIGGEST, strict=True)]


@cache
def _phones(region: str) -> TypeAdapter[str]:
    return TypeAdapter(Annotated[str, PhoneNumberValidator(number_format="E164", default_region=region)])


def _in_e164(value: Any) -> str:
    return _phones(get_settings().phone_region).validate_python(value)


Phone = Annotated[
    str, BeforeValidator(_in_e164), Field(examples=["+79161234567"], json_schema_extra={"format": "phone"})
]

Counter = BigInteger
# A UUIDv7, made here so that rows can refer to each other before they are written.
new_id = uuid7
# The database's clock, read when the row is written: under the chat's lock it agrees with the order of changes.
NOW = func.clock_timestamp()


class Input(SQLModel):
    """Input of clients: no unknown fields, no NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[assignment]  # SQLModel narrows the type
    # SQLModel's __init__ is for tables and doubles the time of a validation.
    __init__ = BaseModel.__init__


# The field `unset` of an Update. Its type has the names of the fields that can be null.
UNSET: Any = Field(default=[], exclude=True, description="Fields to set to null, for clients that can't send null.")


class Update(Input):
    """Input that changes the fields that were sent. A name in `unset` says the same as null."""

    # At least one of these has to be sent or unset.
    one_of: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _set_null(self) -> Self:
        names = set(vars(self)["unset"])
        for name in names & self.model_fields_set:
            raise InvalidInput.at(f"/{name}", "sent_and_unset", "This field is in `unset` too.")
        for name in names:
            setattr(self, name, None)
        if self.one_of and self.model_fields_set.isdisjoint(self.one_of):
            raise InvalidInput.found([{"type": "missing", "loc": self.one_of[:1]}])
        return self


def text_enum(kind: type[StrEnum]) -> Any:
    """A column type that keeps the values, not the names, of an enum as text."""
    return SAEnum(kind, native_enum=False, length=20, values_callable=list)
