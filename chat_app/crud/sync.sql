-- A removal doubles the membership's share, so that the sum grows with every change, this one too.
SELECT max(greatest(membership.changed_at, CASE WHEN removed_at IS NULL THEN chat.changed_at END)) AS latest,
    sum(CASE WHEN removed_at IS NULL THEN chat.version ELSE membership.version END
        + membership.version + mine_version)::bigint AS versions,
    max(greatest({membership_written},
        CASE WHEN removed_at IS NULL THEN {chat_written} END)) AS written,
    count(*) FILTER (WHERE is_counted AND (unread > 0 OR marked_unread)) AS chats,
    coalesce(sum(unread) FILTER (WHERE is_counted), 0)::bigint AS messages
FROM membership JOIN chat ON chat.id = chat_id, LATERAL (
    SELECT removed_at IS NULL AND archived_at IS NULL AND coalesce(muted_until < clock_timestamp(), true)
        AND NOT ({out_of_sight}) AS is_counted,
    CASE WHEN coalesce(last_user_seq, message_count) > last_read_seq THEN message_count - last_read_seq ELSE 0 END AS unread
) AS behind WHERE user_id = $1
