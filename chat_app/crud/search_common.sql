-- Slices of time, the newest first, each four times as long as the one before. The last one that was read may lack
-- messages, so it is left for the next page.
WITH mine AS MATERIALIZED (
    {chats} AND ($2::uuid IS NULL OR chat_id = $2)
), slice AS MATERIALIZED (
    SELECT number, CASE number WHEN 0 THEN $4 ELSE top - interval '16 ms' * power(4, number - 1) END AS until,
        CASE number WHEN 18 THEN '-infinity' ELSE top - interval '16 ms' * power(4, number) END AS since
    FROM generate_series(0, 18) AS number, (SELECT least($4, max(updated_at)) AS top FROM mine) AS newest
), found AS MATERIALIZED (
    SELECT message.*, number, until FROM slice, LATERAL (
        SELECT message.* FROM mine, LATERAL (
            SELECT * FROM message WHERE chat_id = mine.chat_id AND sent_at > since AND sent_at <= until
                AND {is_visible} AND {is_searchable}
        ) AS message OFFSET 0
    ) AS message LIMIT $9
), partial AS (
    SELECT min(until) AS until FROM found HAVING count(*) = $9
)
SELECT until IS NULL AS is_whole, until, ARRAY(
    SELECT ROW (sent_at, chat_id, seq) FROM (
        SELECT * FROM found
        WHERE (partial.until IS NULL OR sent_at > partial.until) AND (sent_at, chat_id, seq) < ($4, $5, $6)
            AND ($7::uuid IS NULL OR sender_id = $7)
        ORDER BY sent_at DESC, chat_id DESC, seq DESC OFFSET 0
    ) AS newest
    WHERE lower(text) LIKE ALL($10::text[]) AND {keys} @@ replace($3, '#', {tag})::tsquery LIMIT $8
) AS places
FROM (SELECT (SELECT until FROM partial) AS until) AS partial
