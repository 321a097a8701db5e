"""Files of messages."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from chat_app.models.base import NOW, Counter, new_id


class AttachmentBase(SQLModel):
    id: UUID
    name: str
    content_type: str
    size: int = Field(sa_type=Counter, description="Bytes.")
    width: int | None = None
    height: int | None = None
    duration: float | None = Field(default=None, description="Seconds, as the client sent it.")
    waveform: list[int] | None = Field(default=None, sa_type=JSONB(none_as_null=True), description="As it was sent.")


class Attachment(AttachmentBase, table=True):
    """`chat_id` and `seq` are set once, by its message. A forwarded message has a row of its own with the same keys."""

    __table_args__ = (
        Index("attachment_message_key", "chat_id", "seq", unique=True, postgresql_where="chat_id IS NOT NULL"),
        Index("attachment_owner_id_idx", "owner_id"),
        Index("attachment_key_idx", "key"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    owner_id: UUID = Field(foreign_key="user.id", ondelete="CASCADE")
    chat_id: UUID | None = None
    seq: int | None = Field(default=None, sa_type=Counter)
    key: str
    preview_key: str | None = None
    created_at: datetime = Field(default=None, sa_column_kwargs={"server_default": NOW})


class AttachmentRead(AttachmentBase):
    url: str = Field(description="Signed; opens without a header for an hour or more and supports ranges.")
    preview_url: str | None = Field(description="A smaller JPEG of a picture, or of the preview that was sent.")
