"""Messages and users have a JSON object of their clients."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("message", sa.Column("extra", sa.JSON()))
    op.add_column("user", sa.Column("extra", sa.JSON()))


def downgrade() -> None:
    op.drop_column("user", "extra")
    op.drop_column("message", "extra")
