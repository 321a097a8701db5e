"""Members mute, archive, mark and clear chats, and keep a draft in each."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

COLUMNS = {
    "muted_until": sa.Column(sa.DateTime(timezone=True)),
    "archived_at": sa.Column(sa.DateTime(timezone=True)),
    "marked_unread": sa.Column(sa.Boolean(), server_default=sa.false(), nullable=False),
    "draft": sa.Column(JSONB()),
    "hidden": sa.Column(sa.Boolean(), server_default=sa.false(), nullable=False),
}


def upgrade() -> None:
    for name, column in COLUMNS.items():
        column.name = name
        op.add_column("membership", column)


def downgrade() -> None:
    for name in COLUMNS:
        op.drop_column("membership", name)
