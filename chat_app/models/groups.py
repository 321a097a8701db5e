"""Profiles of groups, and handing a group over."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import StringConstraints
from sqlmodel import Field, SQLModel

from chat_app.models.base import NO_NUL, UNSET, Input, Line, Update
from chat_app.models.users import Avatar

Description = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=NO_NUL)]


class GroupRead(SQLModel):
    """The profile of a group."""

    chat_id: UUID
    version: int = Field(description="The chat's version at the time of this answer.")
    title: str
    avatar: Avatar | None
    description: str | None


class GroupUpdate(Update):
    """Fields that are not sent stay; null removes the description."""

    one_of = ("title", "description")

    # A factory, as its value is never used and would be a default in the schema.
    title: Line = Field(default_factory=str)
    description: Description | None = None
    unset: list[Literal["description"]] = UNSET


class CreatorSet(Input):
    user_id: UUID = Field(description="A member.")
