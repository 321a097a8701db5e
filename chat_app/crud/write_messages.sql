-- Writes the messages of a batch, $2, at the time $1, and moves the counters of the chats and the positions of the senders.
-- Memberships are written in the order of their keys: who writes many without the locks of their chats does it, too.
WITH placed AS MATERIALIZED (
    SELECT * FROM json_to_recordset($2) AS placed (chat_id uuid, seq bigint, version bigint, sender_id uuid,
        client_id uuid, content_hash text, type text, text text, extra json, reply_to bigint,
        {payload_columns} jsonb, forwarded jsonb)
), sent AS (
    INSERT INTO message (chat_id, seq, version, sender_id, client_id, content_hash,
        type, text, extra, payload, forwarded, reply_to, like_count, sent_at)
    SELECT chat_id, seq, version, sender_id, client_id, decode(content_hash, 'hex'),
        type, text, extra, coalesce({payloads}), forwarded, reply_to, 0, $1
    FROM placed
), counted AS (
    UPDATE chat SET message_count = last.seq, last_user_seq = NULL, version = last.version, updated_at = $1,
        changed_at = $1
    FROM (SELECT chat_id, max(seq) AS seq, max(version) AS version FROM placed GROUP BY chat_id) AS last
    WHERE id = last.chat_id
)
UPDATE membership SET last_read_seq = own.seq, marked_unread = false, draft = NULL, mine_version = mine_version + 1,
    changed_at = $1
FROM (
    SELECT chat_id, sender_id, max(seq) AS seq FROM placed GROUP BY chat_id, sender_id ORDER BY chat_id, sender_id
) AS own
WHERE membership.chat_id = own.chat_id AND user_id = sender_id AND removed_at IS NULL
RETURNING membership.chat_id, user_id, {mine}
