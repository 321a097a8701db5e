"""Deactivated users are found without reading the others."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    where = sa.text("NOT is_active")
    op.create_index("user_inactive_idx", "user", ["id"], postgresql_where=where, if_not_exists=True)


def downgrade() -> None:
    op.drop_index("user_inactive_idx", "user")
