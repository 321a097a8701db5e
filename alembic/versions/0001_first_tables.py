"""First tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    _create_users()
    _create_chats()
    _create_messages()


def downgrade() -> None:
    for table in ("attachment", "like", "message", "membership", "chat", "session", "user"):
        op.drop_table(table)


def _create_users() -> None:
    op.create_table(
        "user",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("phone", sa.String(), nullable=False, unique=True),
        sa.Column("hashed_password", sa.String()),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("username", sa.String()),
        sa.Column("bio", sa.String(), nullable=False),
        sa.Column("avatar_key", sa.String()),
        sa.Column("is_verified", sa.Boolean(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("last_seen_at", TIME),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
    )
    op.create_index("user_username_key", "user", [sa.text("lower(username)")], unique=True)
    op.create_table(
        "session",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("user_id", sa.Uuid(), sa.ForeignKey("user.id", ondelete="CASCADE"), nullable=False),
        sa.Column("refresh_hash", sa.LargeBinary(), nullable=False),
        sa.Column("previous_hash", sa.LargeBinary()),
        sa.Column("user_agent", sa.String()),
        sa.Column("active_chat_id", sa.Uuid()),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("last_used_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME),
    )
    op.create_index("session_user_id_idx", "session", ["user_id"])
    op.create_index("session_revoked_at_idx", "session", ["revoked_at"], postgresql_where="revoked_at IS NOT NULL")


def _create_chats() -> None:
    op.create_table(
        "chat",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("title", sa.String()),
        sa.Column("creator_id", sa.Uuid()),
        sa.Column("low_id", sa.Uuid()),
        sa.Column("high_id", sa.Uuid()),
        sa.Column("client_id", sa.Uuid()),
        sa.Column("content_hash", sa.LargeBinary()),
        sa.Column("member_count", sa.Integer(), nullable=False),
        sa.Column("message_count", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME),
    )
    op.create_index("chat_pair_key", "chat", ["low_id", "high_id"], unique=True, postgresql_where="low_id IS NOT NULL")
    op.create_index(
        "chat_client_id_key", "chat", ["creator_id", "client_id"], unique=True, postgresql_where="client_id IS NOT NULL"
    )
    op.create_table(
        "membership",
        sa.Column("chat_id", sa.Uuid(), sa.ForeignKey("chat.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("user_id", sa.Uuid(), sa.ForeignKey("user.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("joined_version", sa.BigInteger(), nullable=False),
        sa.Column("joined_at", TIME, nullable=False),
        sa.Column("removed_at", TIME),
        sa.Column("removed_reason", sa.String(20)),
        sa.Column("changed_at", TIME, nullable=False),
        sa.Column("title", sa.String()),
        sa.Column("pinned_at", TIME),
        sa.Column("visible_from_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_read_seq", sa.BigInteger(), nullable=False),
        sa.Column("mine_version", sa.BigInteger(), nullable=False),
    )
    op.create_index("membership_user_id_idx", "membership", ["user_id", "chat_id"])


def _create_messages() -> None:
    op.create_table(
        "message",
        sa.Column("chat_id", sa.Uuid(), primary_key=True),
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("sender_id", sa.Uuid(), nullable=False),
        sa.Column("client_id", sa.Uuid()),
        sa.Column("content_hash", sa.LargeBinary()),
        sa.Column("type", sa.String(20), nullable=False),
        sa.Column("text", sa.String()),
        sa.Column("payload", JSONB()),
        sa.Column("reply_to", sa.BigInteger()),
        sa.Column("like_count", sa.Integer(), nullable=False),
        sa.Column("sent_at", TIME, nullable=False),
        sa.Column("edited_at", TIME),
        sa.Column("deleted_at", TIME),
    )
    op.create_index("message_client_id_key", "message", ["chat_id", "sender_id", "client_id"], unique=True)
    op.create_index("message_version_idx", "message", ["chat_id", "version"])
    op.create_table(
        "like",
        sa.Column("chat_id", sa.Uuid(), primary_key=True),
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
    )
    op.create_table(
        "attachment",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("owner_id", sa.Uuid(), sa.ForeignKey("user.id", ondelete="CASCADE"), nullable=False),
        sa.Column("chat_id", sa.Uuid()),
        sa.Column("seq", sa.BigInteger()),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("content_type", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer()),
        sa.Column("height", sa.Integer()),
        sa.Column("duration", sa.Float()),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("preview_key", sa.String()),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
    )
    op.create_index("attachment_owner_id_idx", "attachment", ["owner_id"])
    op.create_index(
        "attachment_message_key", "attachment", ["chat_id", "seq"], unique=True, postgresql_where="chat_id IS NOT NULL"
    )
