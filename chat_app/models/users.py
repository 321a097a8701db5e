"""Users: the account, the public profile and its changes."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import Field as Check
from pydantic import StringConstraints
from sqlalchemy import Index, literal_column, text
from sqlmodel import Field, SQLModel

from chat_app.models.base import NO_NUL, NOW, UNSET, Input, Line, Phone, Update, new_id
from chat_app.models.extra import ExtraJson, UserExtra
from chat_app.models.wire_json import construct
from chat_app.settings import get_settings

Password = Annotated[str, StringConstraints(min_length=8, max_length=128, pattern=NO_NUL)]
Username = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{2,31}$")]
Bio = Annotated[str, StringConstraints(max_length=500, pattern=NO_NUL)]

DEFAULT_NAME = "New user"
EXTRA = "Your own JSON object, shown to everybody: at most 2048 bytes without spaces, and 5 levels."
TRIGRAMS: dict[str, Any] = {"postgresql_using": "gin", "postgresql_ops": {"words": "gin_trgm_ops"}}


class UserBase(SQLModel):
    name: Line = Field(default=DEFAULT_NAME, description="Shown to everybody.", schema_extra={"examples": ["Anna"]})
    username: Username | None = Field(default=None, description="Unique, regardless of case.")
    bio: Bio = Field(default="")
    extra: UserExtra | None = Field(default=None, sa_type=ExtraJson(none_as_null=True), description=EXTRA)


class User(UserBase, table=True):
    __table_args__ = (
        Index("user_username_key", text("lower(username)"), unique=True),
        # Only nodes of the former release use it, while they run beside this one.
        Index("user_inactive_idx", "id", postgresql_where=text("NOT is_active")),
        # For the search: they serve LIKE and similarity.
        Index("user_name_idx", literal_column("lower(name)").label("words"), **TRIGRAMS),
        Index("user_username_idx", literal_column("lower(username)").label("words"), **TRIGRAMS),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    phone: str = Field(unique=True)
    hashed_password: str | None = None
    avatar_key: str | None = None
    is_verified: bool = False
    is_active: bool = True
    last_seen_at: datetime | None = None
    created_at: datetime = Field(default=None, sa_column_kwargs={"server_default": NOW})

    @property
    def has_password(self) -> bool:
        return self.hashed_password is not None


class UserCreate(Input):
    phone: Phone
    password: Password
    name: Line = DEFAULT_NAME


class UserUpdate(Update, UserBase):
    """Fields that are not sent stay; null removes the username or `extra`."""

    unset: list[Literal["username", "extra"]] = UNSET


class UserLookup(Input):
    phone: Phone


class UsersLookup(Input):
    phones: Annotated[list[Phone], Check(min_length=1, max_length=100)]


class Avatar(SQLModel):
    """The addresses of the four pictures. A new picture has new addresses, so each can be cached for ever."""

    original: str = Field(description="The picture that was uploaded, without metadata.")
    large: str = Field(description="400x400")
    medium: str = Field(description="100x100")
    small: str = Field(description="50x50")

    @classmethod
    def of(cls, key: str) -> Self:
        """The addresses of a stored avatar."""
        folder = f"{get_settings().base_url}/media/avatars/{key}"
        return cls(**{size: f"{folder}/{size}" for size in cls.model_fields})


class AvatarUpload(Input):
    image: str = Field(
        description="JPEG, PNG, WebP or GIF, as base64 or as a data URI.",
        schema_extra={"json_schema_extra": {"format": "image"}},
    )


class UserBrief(SQLModel):
    id: UUID
    name: str
    avatar: Avatar | None


class UserRead(UserBrief):
    username: str | None
    bio: str
    extra: dict[str, Any] | None = Field(description="The client's own: the service never reads it.")
    last_seen_at: datetime | None = Field(description="When the user was last online, before now; null: never.")
    online: bool = Field(description="At the time of this answer.")


class UserMe(UserRead):
    phone: str
    is_verified: bool = Field(description="Whether the number was proven with a code.")
    has_password: bool = Field(description="Without one, log in with a code.")
    created_at: datetime


class UserList(SQLModel):
    items: list[UserRead]


class LookedUp(SQLModel):
    phone: str = Field(description="As it was sent, with the country code.")
    user: UserRead | None


class LookedUpList(SQLModel):
    items: list[LookedUp] = Field(description="One for each phone, in the same order.")


class UserPage(UserList):
    next_cursor: str | None


def brief(user_id: UUID, name: str, avatar_key: str | None) -> UserBrief:
    """A user as everybody sees it beside a message."""
    return construct(UserBrief, {"id": user_id, "name": name, "avatar": avatar_key and Avatar.of(avatar_key)})
