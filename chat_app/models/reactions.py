"""Reactions: emojis that users put on a message, beside the like."""

from typing import Annotated
from uuid import UUID

from emoji import EMOJI_DATA, STATUS
from pydantic import AfterValidator
from pydantic import Field as Check
from pydantic_core import PydanticCustomError
from sqlmodel import Field, SQLModel

from chat_app.models.base import Counter, Input
from chat_app.models.users import UserBrief

# Selects the picture of a character that is a text too. Many keyboards leave it out.
SELECTOR = "\ufe0f"
# All emojis of Unicode's emoji-test.txt, by themselves without selectors. A skin tone alone is none.
_FULL = [emoji for emoji, about in EMOJI_DATA.items() if about["status"] == STATUS["fully_qualified"]]
QUALIFIED = {emoji.replace(SELECTOR, ""): emoji for emoji in _FULL}


def _qualified(value: str) -> str:
    if value not in EMOJI_DATA or value.replace(SELECTOR, "") not in QUALIFIED:
        raise PydanticCustomError("not_an_emoji", "not an emoji")
    return QUALIFIED[value.replace(SELECTOR, "")]


_ABOUT = Check(max_length=20, examples=["👍"], json_schema_extra={"format": "emoji"})
Emoji = Annotated[str, _ABOUT, AfterValidator(_qualified)]


class Reaction(SQLModel, table=True):
    """`version`: the chat's, which orders the reactions of a message."""

    chat_id: UUID = Field(primary_key=True)
    seq: int = Field(primary_key=True, sa_type=Counter, sa_column_kwargs={"autoincrement": False})
    user_id: UUID = Field(primary_key=True)
    emoji: str = Field(primary_key=True)
    version: int = Field(sa_type=Counter)


class ReactionCreate(Input):
    emoji: Emoji


class ReactionCount(SQLModel):
    emoji: str
    count: int


class ReactionRead(SQLModel):
    user: UserBrief
    emoji: str


class ReactionPage(SQLModel):
    items: list[ReactionRead] = Field(description="In the order of reacting.")
    next_cursor: str | None
