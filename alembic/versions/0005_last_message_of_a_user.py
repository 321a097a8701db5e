"""Chats know their newest message that is no system message.

Null means the newest message of all. So it is right for nearly every chat without a write, and a node of the former
release, which does not know the column, leaves it right when it sends.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# The table is locked from the new column on, so the messages are read before it.
FIND = """
CREATE TEMPORARY TABLE ending_with_system ON COMMIT DROP AS
SELECT chat.id, message_count, (
    SELECT coalesce(max(seq), 0) FROM message WHERE chat_id = chat.id AND type != 'system'
) AS last_user_seq
FROM chat JOIN message AS newest ON chat_id = chat.id AND seq = message_count
WHERE newest.type = 'system' AND chat.deleted_at IS NULL
"""
FILL = """
UPDATE chat SET last_user_seq = found.last_user_seq FROM ending_with_system AS found
WHERE chat.id = found.id AND chat.message_count = found.message_count
"""


def upgrade() -> None:
    op.execute(FIND)
    op.add_column("chat", sa.Column("last_user_seq", sa.BigInteger()))
    op.execute(FILL)


def downgrade() -> None:
    op.drop_column("chat", "last_user_seq")
