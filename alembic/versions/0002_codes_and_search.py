"""One-time codes, and indexes for finding people and private chats."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "code",
        sa.Column("phone", sa.String(), primary_key=True),
        sa.Column("purpose", sa.String(20), primary_key=True),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("sent_at", TIME, nullable=False),
    )
    op.create_index("chat_high_id_idx", "chat", ["high_id"], postgresql_where="high_id IS NOT NULL")
    op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    for column in ("name", "username"):
        op.create_index(
            f"user_{column}_idx",
            "user",
            [sa.literal_column(f"lower({column})").label("words")],
            postgresql_using="gin",
            postgresql_ops={"words": "gin_trgm_ops"},
        )


def downgrade() -> None:
    for column in ("name", "username"):
        op.drop_index(f"user_{column}_idx", "user")
    op.drop_index("chat_high_id_idx", "chat")
    op.drop_table("code")
