"""One-time codes: sent to a phone, stored as a hash, valid for one use."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import StringConstraints
from sqlmodel import Field, SQLModel

from chat_app.models.base import NO_NUL, Input, Phone, text_enum
from chat_app.models.users import Password


class Purpose(StrEnum):
    LOGIN = "login"
    VERIFY = "verify"
    RESET = "reset"
    CHANGE = "change"
    DELETE = "delete"


FormerPassword = Annotated[str, StringConstraints(max_length=128, pattern=NO_NUL)]
Digits = Annotated[str, StringConstraints(pattern=r"^[0-9]{6}$")]


class Code(SQLModel, table=True):
    """The newest code of a number for a purpose, also of a number without a user."""

    phone: str = Field(primary_key=True)
    purpose: Purpose = Field(primary_key=True, sa_type=text_enum(Purpose))
    hash: bytes
    attempts: int = 0
    expires_at: datetime
    sent_at: datetime


class CodeRequest(Input):
    phone: Phone
    purpose: Purpose


class CodeSent(SQLModel):
    """The same for every number, with or without a user."""

    expires_in: int = Field(description="Seconds for which the code is valid.")
    resend_in: int = Field(description="Seconds until you can request another.")


class CodeUse(Input):
    phone: Phone
    code: Digits


class CodeLogin(CodeUse):
    password: Password | None = Field(default=None, description="Sets a password; your other sessions end.")


class PasswordReset(CodeUse):
    new_password: Password


class PasswordChange(Input):
    current_password: FormerPassword | None = Field(default=None, description="Needed unless none is set.")
    new_password: Password
