"""Profiles of groups, and the founder's key of a group."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

WHERE = "founding_key IS NOT NULL"


def upgrade() -> None:
    for name, kind in (("picture_key", sa.String()), ("description", sa.String()), ("founding_key", sa.Uuid())):
        op.add_column("chat", sa.Column(name, kind))
    op.create_index("chat_founding_key_key", "chat", ["founding_key"], unique=True, postgresql_where=WHERE)


def downgrade() -> None:
    for name in ("founding_key", "description", "picture_key"):
        op.drop_column("chat", name)
