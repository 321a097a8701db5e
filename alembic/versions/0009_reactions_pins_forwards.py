"""Reactions, pinned messages, and the first author of forwarded ones.

On large tables, add the columns and the indexes by hand before, the indexes with CREATE INDEX CONCURRENTLY.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reaction",
        sa.Column("chat_id", sa.Uuid(), primary_key=True),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, primary_key=True),
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("emoji", sa.String(), primary_key=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
    )
    for column in (
        sa.Column("reactions", JSONB()),
        sa.Column("forwarded", JSONB()),
        sa.Column("pinned_at", sa.DateTime(timezone=True)),
    ):
        op.add_column("message", column, if_not_exists=True)
    is_pinned = sa.text("pinned_at IS NOT NULL")
    op.create_index("message_pinned_idx", "message", ["chat_id"], postgresql_where=is_pinned, if_not_exists=True)
    op.create_index("attachment_key_idx", "attachment", ["key"], if_not_exists=True)


def downgrade() -> None:
    op.drop_index("attachment_key_idx", "attachment")
    op.drop_index("message_pinned_idx", "message")
    for column in ("pinned_at", "forwarded", "reactions"):
        op.drop_column("message", column)
    op.drop_table("reaction")
