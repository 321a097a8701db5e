-- The chat is compared in a way that no other index serves: it would read all messages of the chat.
WITH mine AS MATERIALIZED (
    {chats} AND ($2::uuid IS NULL OR chat_id = $2)
), found AS MATERIALIZED (
    SELECT message.*, visible_from_seq
    FROM mine, LATERAL generate_series(visible_from_seq / 1024, message_count / 1024) AS block, LATERAL (
        SELECT chat_id, seq, sent_at, sender_id FROM message
        WHERE {keys} @@ replace($3, '#', {tag})::tsquery AND {is_searchable}
            AND chat_id IS NOT DISTINCT FROM mine.chat_id AND seq / 1024 = block OFFSET 0
    ) AS message LIMIT $9
)
SELECT (SELECT count(*) FROM found) < $9 AS is_whole, null::timestamptz AS until, ARRAY(
    SELECT ROW (sent_at, chat_id, seq) FROM found
    WHERE {is_visible} AND (sent_at, chat_id, seq) < ($4, $5, $6) AND ($7::uuid IS NULL OR sender_id = $7)
    ORDER BY sent_at DESC, chat_id DESC, seq DESC LIMIT $8
) AS places
