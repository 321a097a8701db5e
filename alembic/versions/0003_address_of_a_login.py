"""Sessions remember from where they logged in, as a hash."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("session", sa.Column("address_hash", sa.LargeBinary()))


def downgrade() -> None:
    op.drop_column("session", "address_hash")
