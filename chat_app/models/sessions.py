"""Sessions: one login of a device, with its refresh token, connections and active chat."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Index
from sqlmodel import Field, SQLModel

from chat_app.models.base import Input, Opaque, new_id


class Actor(NamedTuple):
    """The user and the session that do something."""

    id: UUID
    session_id: UUID


class Device(NamedTuple):
    """The client that opens a session; its address only as an HMAC."""

    user_agent: str | None
    address_hash: bytes | None = None


class SessionBase(SQLModel):
    id: UUID
    user_agent: str | None = None
    created_at: datetime
    last_used_at: datetime = Field(description="The last login or refresh.")
    expires_at: datetime = Field(description="Moves on with every new token.")


class Session(SessionBase, table=True):
    __table_args__ = (
        Index("session_user_id_idx", "user_id"),
        # Only nodes of the former release use it, while they run beside this one.
        Index("session_revoked_at_idx", "revoked_at", postgresql_where="revoked_at IS NOT NULL"),
    )

    id: UUID = Field(default_factory=new_id, primary_key=True)
    user_id: UUID = Field(foreign_key="user.id", ondelete="CASCADE")
    refresh_hash: bytes
    previous_hash: bytes | None = None
    revoked_at: datetime | None = None
    active_chat_id: UUID | None = None
    address_hash: bytes | None = None


class SessionRead(SessionBase):
    is_current: bool = Field(description="Whether it is the session of this request.")


class RefreshRequest(Input):
    refresh_token: Opaque


class Tokens(SQLModel):
    access_token: str
    refresh_token: str = Field(description="For /auth/refresh, once.")
    token_type: str = "bearer"
    expires_in: int = Field(description="Seconds until the access token expires.")
