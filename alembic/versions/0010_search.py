"""Messages are found by their words, by their type, and by their time.

On a large table make both indexes before, as the runbook says: to make them here stops sends for that time.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TAG = "to_hex(uuid_hash_extended(chat_id, seq / 1024) & 4294967295)"
KEYS = rf"""array_to_tsvector(string_to_array({TAG} || '=' || type || ' ' || {TAG} ||
    regexp_replace(lower(coalesce(CASE WHEN octet_length(text) < 1000 THEN text
    ELSE regexp_replace(text, '([[:alnum:]]{{100}})[[:alnum:]]+', '\1', 'g') END, '')),
    '[^[:alnum:]]+', ' ' || {TAG}, 'g'), ' '))"""


def upgrade() -> None:
    op.create_index("message_sent_at_idx", "message", ["chat_id", "sent_at"], if_not_exists=True)
    op.create_index(
        "message_search_idx",
        "message",
        [sa.literal_column(KEYS).label("keys")],
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
        postgresql_where=sa.literal_column("deleted_at IS NULL AND type <> 'system'"),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_index("message_search_idx", "message")
    op.drop_index("message_sent_at_idx", "message")
