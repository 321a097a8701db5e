-- The entries of `page`: chats with the membership of the member who sees them.
WITH page AS (
    SELECT chat.*, membership.user_id, {mine}, coalesce(pinned_at, 'epoch') AS pinned
    FROM membership JOIN chat ON chat.id = chat_id WHERE removed_at IS NULL AND {where} {order}
)
SELECT page.*, {preview}, peer.id AS peer_id, peer.name, peer.avatar_key, (
    SELECT coalesce(max(last_read_seq), 0) FROM membership AS other
    WHERE chat_id = page.id AND other.user_id <> page.user_id AND removed_at IS NULL
) AS others_read_seq
FROM page
LEFT JOIN message AS last ON last.chat_id = page.id AND last.seq = message_count
LEFT JOIN "user" AS peer ON peer.id = CASE page.user_id WHEN low_id THEN high_id WHEN high_id THEN low_id END
{order_again}
