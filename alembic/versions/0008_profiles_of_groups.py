"""Profiles of groups, the founder's key of a group, and the waveform of a file."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

WHERE = "founding_key IS NOT NULL"


def upgrade() -> None:
    for name, kind in (("picture_key", sa.String()), ("description", sa.String()), ("founding_key", sa.Uuid())):
        op.add_column("chat", sa.Column(name, kind))
    op.create_index("chat_founding_key_key", "chat", ["founding_key"], unique=True, postgresql_where=WHERE)
    op.add_column("attachment", sa.Column("waveform", JSONB()))


def downgrade() -> None:
    op.drop_column("attachment", "waveform")
    for name in ("founding_key", "description", "picture_key"):
        op.drop_column("chat", name)
