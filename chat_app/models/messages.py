"""Messages of every type, likes, and pages of messages."""

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, get_args
from uuid import UUID

from pydantic import Discriminator, StringConstraints, ValidationError, WrapValidator
from pydantic import Field as Check
from sqlalchemy import Index, literal_column
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel
from typing_extensions import TypeAliasType

from chat_app.errors import InvalidInput
from chat_app.models.attachments import AttachmentRead
from chat_app.models.base import NO_NUL, NOW, UNSET, Body, Counter, Input, Line, Seq, Update, new_id, text_enum
from chat_app.models.extra import ExtraJson, MessageExtra
from chat_app.models.reactions import ReactionCount
from chat_app.models.users import UserBrief


class MessageType(StrEnum):
    """Show a type that you don't know by the message's `text`; without one, say that a newer app is needed."""

    TEXT = "text"
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    VOICE = "voice"
    FILE = "file"
    LOCATION = "location"
    CONTACT = "contact"
    CUSTOM = "custom"
    SYSTEM = "system"


class SystemEvent(StrEnum):
    """Show an event that you don't know as a change of the chat, without details."""

    GROUP_CREATED = "group_created"
    BECAME_GROUP = "became_group"
    MEMBERS_ADDED = "members_added"
    MEMBER_REMOVED = "member_removed"
    MEMBER_LEFT = "member_left"
    GROUP_CHANGED = "group_changed"
    CREATOR_CHANGED = "creator_changed"


class MessageBase(SQLModel):
    chat_id: UUID
    seq: int = Field(sa_type=Counter, description="The position in the chat: 1, 2, 3 … without gaps.")
    version: int = Field(sa_type=Counter, description="The chat's version at the last change of this message.")
    client_id: UUID | None = None
    type: MessageType = Field(sa_type=text_enum(MessageType))
    text: str | None = None
    reply_to: int | None = Field(default=None, sa_type=Counter, description="The seq of the quoted message.")
    sender_id: UUID
    like_count: int = 0
    sent_at: datetime
    edited_at: datetime | None = None
    deleted_at: datetime | None = None
    extra: dict[str, Any] | None = Field(
        default=None, sa_type=ExtraJson(none_as_null=True), description="The client's own: the service never reads it."
    )
    pinned_at: datetime | None = Field(default=None, description="Set while it is pinned for all members.")


def search_tag(chat_id: str, block: str) -> str:
    """SQL for what the index keys of one block of a chat begin with. Equal tags of two blocks are possible."""
    return f"to_hex(uuid_hash_extended({chat_id}, {block}) & 4294967295)"


SEPARATOR = "[^[:alnum:]]+"
# The search looks up 1,024 messages of a chat at a time.
_TAG = search_tag("chat_id", "seq / 1024")
# A key has at most 2,046 bytes.
_LONG = "([[:alnum:]]{100})[[:alnum:]]+"
_CUT = rf"""
CASE
    WHEN octet_length(text) < 1000 THEN text
    ELSE regexp_replace(text, '{_LONG}', '\1', 'g')
END"""
_TAGGED = f"regexp_replace(lower(coalesce({_CUT}, '')), '{SEPARATOR}', ' ' || {_TAG}, 'g')"
# The words of a message and its type, each behind the tag: a chat is searched without reading the keys of others.
# Alembic compares it with what PostgreSQL shows of the index, so lines and parentheses are as there.
SEARCH_KEYS = f"array_to_tsvector(string_to_array((((({_TAG} || '=') || type) || ' ') || {_TAG}) || {_TAGGED}, ' '))"
IS_SEARCHABLE = "deleted_at IS NULL AND type <> 'system'"
SEARCH_INDEX: dict[str, Any] = {
    "postgresql_using": "gin",
    "postgresql_where": literal_column(IS_SEARCHABLE),
    # Each lookup would read all keys that wait to be sorted in.
    "postgresql_with": {"fastupdate": "off"},
}


class Message(MessageBase, table=True):
    """Keyed by chat first and without foreign keys, so that it can be partitioned by chat."""

    __table_args__ = (
        Index("message_client_id_key", "chat_id", "sender_id", "client_id", unique=True),
        Index("message_version_idx", "chat_id", "version"),
        Index("message_sent_at_idx", "chat_id", "sent_at"),
        Index("message_search_idx", literal_column(SEARCH_KEYS).label("keys"), **SEARCH_INDEX),
        Index("message_pinned_idx", "chat_id", postgresql_where="pinned_at IS NOT NULL"),
    )

    chat_id: UUID = Field(primary_key=True)
    seq: int = Field(primary_key=True, sa_type=Counter, sa_column_kwargs={"autoincrement": False})
    payload: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    # The counts of the rows of `reaction`, as in `MessageShared`; null: none.
    reactions: list[dict[str, Any]] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    forwarded: dict[str, Any] | None = Field(default=None, sa_type=JSONB(none_as_null=True))
    content_hash: bytes | None = None


class Like(SQLModel, table=True):
    chat_id: UUID = Field(primary_key=True)
    seq: int = Field(primary_key=True, sa_type=Counter, sa_column_kwargs={"autoincrement": False})
    user_id: UUID = Field(primary_key=True)
    created_at: datetime = Field(sa_column_kwargs={"server_default": NOW})


class Location(SQLModel):
    latitude: float
    longitude: float


class Contact(SQLModel):
    name: str
    phone: str = Field(description="As it was sent.")


class Forwarded(SQLModel):
    """Who wrote a forwarded message first, and when."""

    author_id: UUID
    sent_at: datetime


class System(SQLModel):
    """A message by the service; clients word it."""

    event: SystemEvent
    user_ids: list[UUID] = Field(description="The users concerned, without the sender; the new creator.")
    title: str | None = None
    fields: list[str] | None = Field(default=None, description="Of group_changed: title, description, avatar.")


EXTRA = "Your own JSON object: at most 4096 bytes without spaces, and 5 levels."
ONCE = "Made by the client; the same id again sends nothing twice."


class CreateBase(Input):
    """The common fields of a new message. A kind names the payload that its own fields make."""

    payload: ClassVar[type[SQLModel] | None] = None
    # By type, the beginning of the content type of its file. Empty: without a file.
    content_types: ClassVar[dict[str, str]] = {}

    client_id: UUID = Field(default_factory=new_id, description=f"{ONCE} Without one a lost answer can't be repeated.")
    reply_to: Seq | None = Field(default=None, description="The seq of the message that this one answers.")
    extra: MessageExtra | None = Field(default=None, description=EXTRA)


class TextCreate(CreateBase):
    type: Literal["text"]
    text: Body


class AttachmentCreate(CreateBase):
    content_types: ClassVar = {"image": "image/", "video": "video/", "audio": "audio/", "voice": "audio/", "file": ""}
    type: Literal["image", "video", "audio", "voice", "file"]
    attachment_id: UUID = Field(description="From POST /attachments; each attachment goes with one message.")
    text: Body | None = Field(default=None, description="A caption.")


class LocationCreate(CreateBase):
    payload = Location
    type: Literal["location"]
    latitude: Annotated[float, Check(ge=-90, le=90, strict=True)]
    longitude: Annotated[float, Check(ge=-180, le=180, strict=True)]
    text: Body | None = None


class ContactCreate(CreateBase):
    payload = Contact
    type: Literal["contact"]
    name: Line
    phone: Annotated[str, StringConstraints(min_length=1, max_length=40, pattern=NO_NUL)]


class CustomCreate(CreateBase):
    type: Literal["custom"]
    extra: MessageExtra = Field(description=EXTRA)
    text: Body | None = Field(default=None, description="For previews, and for apps that do not know what `extra` is.")


class ForwardCreate(CreateBase):
    """A new message with the type and content of another one. `extra` is only what you give: a custom one needs it."""

    type: Literal["forward"]
    from_chat_id: UUID = Field(description="One of your chats.")
    from_seq: Seq = Field(description="The message there whose type and content this one gets.")


def _without_tag(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Leave out of locations the variant that pydantic adds: it is not part of the input. Raises InvalidInput."""
    try:
        return validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        missing = ("type",) if isinstance(value, dict) else ()
        raise InvalidInput.found([{**one, "loc": one["loc"][1:] or missing} for one in found]) from error


# For a union with `type` as discriminator.
BY_TYPE = (Discriminator("type"), WrapValidator(_without_tag))

# The documents have a schema of this name.
MessageCreate = TypeAliasType(
    "MessageCreate",
    Annotated[TextCreate | AttachmentCreate | LocationCreate | ContactCreate | CustomCreate | ForwardCreate, *BY_TYPE],
)

# The registry of message types. What else differs by type follows from these classes, but for the payload's field in
# `MessageShared`.
CREATES: tuple[type[CreateBase], ...] = get_args(get_args(MessageCreate.__value__)[0])
_TYPES = {name: kind for kind in CREATES for name in get_args(kind.model_fields["type"].annotation)}
CREATE_OF = {MessageType(name): kind for name, kind in _TYPES.items() if kind is not ForwardCreate}
WITH_ATTACHMENT = frozenset(kind for kind, create in CREATE_OF.items() if create.content_types)
PAYLOADS: dict[MessageType, type[SQLModel]] = {MessageType.SYSTEM: System} | {
    kind: create.payload for kind, create in CREATE_OF.items() if create.payload
}
# In a message the payload is the field with the name of its type; the other ones are null.
NO_PAYLOAD: dict[str, Any] = {kind.value: None for kind in PAYLOADS}


class MessageUpdate(Update):
    one_of = ("text", "extra")

    text: Body | None = Field(default=None, description="The new text; null takes a caption away.")
    extra: MessageExtra | None = Field(default=None, description=f"{EXTRA} null takes it away.")
    unset: list[Literal["text", "extra"]] = UNSET


class Preview(SQLModel):
    """The newest message as a chat list shows it."""

    seq: int
    type: MessageType
    text: str | None = Field(description="The first 200 characters.")
    system: System | None = Field(description="Of system messages only.")
    sender_id: UUID
    sent_at: datetime
    deleted_at: datetime | None


class MessageShared(MessageBase):
    """A message in events, the same for all members: without `liked` and `reacted`, so keep those you know."""

    location: Location | None = Field(description="Of locations only.")
    contact: Contact | None = Field(description="Of contacts only.")
    system: System | None = Field(description="Of system messages only.")
    attachment: AttachmentRead | None
    reactions: list[ReactionCount] = Field(default=[], description="The most frequent first, then by emoji.")
    forwarded: Forwarded | None = Field(default=None, description="Of forwarded messages only.")


class MessageRead(MessageShared):
    liked: bool = Field(description="Whether you like it.")
    reacted: list[str] = Field(default=[], description="Your own reactions.")


class MessagePage(SQLModel):
    items: list[MessageRead] = Field(description="In ascending seq.")
    has_before: bool
    has_after: bool
    version: int
    users: list[UserBrief]
    replied: list[MessageRead] = Field(description="Quoted messages that are not among the items.")


class PinnedList(SQLModel):
    items: list[MessageShared] = Field(description="The last pinned first.")
    users: list[UserBrief]
    version: int = Field(description="A message that you know up to it is not pinned if it is missing here.")
