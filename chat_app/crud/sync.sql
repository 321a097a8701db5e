-- A removal doubles the membership's share, so that the sum grows with every change, this one too.
SELECT max(greatest(membership.changed_at, CASE WHEN removed_at IS NULL THEN chat.changed_at END)) AS latest,
    sum(CASE WHEN removed_at IS NULL THEN chat.version ELSE membership.version END
        + membership.version + mine_version)::bigint AS versions,
    max(greatest({membership_written},
        CASE WHEN removed_at IS NULL THEN {chat_written} END)) AS written
FROM membership JOIN chat ON chat.id = chat_id WHERE user_id = $1
