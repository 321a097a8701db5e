-- The first message of chat $1 from the time $4 on, among the seqs $2 to $3, or the last of these. Seqs have no gaps and
-- are in the order of time, so halving finds it without an index on times, which each send would have to keep up to date.
WITH RECURSIVE span AS (
    SELECT $2::bigint AS low, $3::bigint AS high
    UNION ALL SELECT CASE WHEN sent_at < $4 THEN seq + 1 ELSE low END, CASE WHEN sent_at < $4 THEN high ELSE seq END
    FROM span JOIN message ON chat_id = $1 AND seq = (low + high) / 2 WHERE low < high
) SELECT low FROM span WHERE low >= high
