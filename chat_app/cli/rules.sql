-- Each query finds the violations of the rule above it, on one state of all tables.

-- seqs are not 1, 2, 3 …
SELECT chat.id AS chat_id, message_count, count(seq) AS messages, min(seq) AS first, max(seq) AS last
FROM chat LEFT JOIN message ON chat_id = chat.id GROUP BY chat.id
HAVING (count(seq), coalesce(min(seq), 1), coalesce(max(seq), 0)) != (message_count, 1, message_count);

-- a message has no chat
SELECT chat_id, seq FROM message LEFT JOIN chat ON chat.id = chat_id WHERE chat.id IS NULL;

-- the version is below that of a row
SELECT chat.id AS chat_id, chat.version, max(changed.version) AS row FROM chat JOIN (
    SELECT chat_id, version FROM message
    UNION ALL SELECT chat_id, greatest(version, joined_version) FROM membership
) AS changed ON chat_id = chat.id GROUP BY chat.id HAVING max(changed.version) > chat.version;

-- a message has `extra` that should not, or lacks it
SELECT chat_id, seq, type FROM message WHERE CASE
    WHEN deleted_at IS NOT NULL OR type = 'system' THEN extra IS NOT NULL
    WHEN type = 'custom' THEN extra IS NULL
END;

-- like_count is not the number of likes
SELECT chat_id, seq, like_count, count AS likes
FROM message FULL JOIN (SELECT chat_id, seq, count(*) FROM "like" GROUP BY chat_id, seq) AS likes
USING (chat_id, seq) WHERE coalesce(like_count, 0) != coalesce(count, 0);

-- the counts of reactions are not those of their rows
SELECT chat_id, seq, reactions, counts FROM message FULL JOIN (
    SELECT chat_id, seq, jsonb_agg(jsonb_build_object('emoji', emoji, 'count', count)
        ORDER BY count DESC, emoji COLLATE "C") AS counts
    FROM (SELECT chat_id, seq, emoji, count(*) FROM reaction GROUP BY chat_id, seq, emoji) AS counted
    GROUP BY chat_id, seq
) AS reacted USING (chat_id, seq) WHERE reactions IS DISTINCT FROM counts;

-- a message or a person has too many reactions
SELECT chat_id, seq, user_id, count(*) AS reactions FROM reaction
GROUP BY GROUPING SETS ((chat_id, seq, user_id), (chat_id, seq))
HAVING (user_id IS NOT NULL AND count(*) > 3) OR count(DISTINCT emoji) > 20;

-- a chat has too many pinned messages, or a system message is pinned
SELECT chat_id, count(*) AS pinned FROM message WHERE pinned_at IS NOT NULL AND deleted_at IS NULL
GROUP BY chat_id HAVING count(*) > 50 OR bool_or(type = 'system');

-- member_count is not the number of members
SELECT chat.id AS chat_id, member_count, count(user_id) AS members
FROM chat LEFT JOIN membership ON chat_id = chat.id AND removed_at IS NULL
GROUP BY chat.id HAVING count(user_id) != member_count;

-- the creator of a group is no member
SELECT chat.id AS chat_id, creator_id FROM chat
LEFT JOIN membership ON chat_id = chat.id AND user_id = creator_id AND removed_at IS NULL
WHERE type = 'group' AND deleted_at IS NULL AND user_id IS NULL;

-- last_user_seq is before the message of a user
SELECT chat.id AS chat_id, last_user_seq, max(seq) AS newest
FROM chat JOIN message ON chat_id = chat.id AND message.type != 'system' AND seq > last_user_seq
WHERE EXISTS (SELECT FROM message AS last WHERE chat_id = chat.id AND seq = message_count AND last.type = 'system')
GROUP BY chat.id;

-- a read position is outside of what is visible
SELECT chat_id, user_id, visible_from_seq, last_read_seq, message_count
FROM membership JOIN chat ON chat.id = chat_id
WHERE removed_at IS NULL AND NOT (visible_from_seq BETWEEN 1 AND message_count + 1
    AND last_read_seq BETWEEN visible_from_seq - 1 AND message_count);

-- a draft answers a message that is not visible, or a hidden chat is marked as unread
SELECT chat_id, user_id, draft -> 'reply_to' AS reply_to FROM membership JOIN chat ON chat.id = chat_id
WHERE removed_at IS NULL
    AND ((draft ->> 'reply_to')::bigint NOT BETWEEN visible_from_seq AND message_count OR hidden AND marked_unread);

-- an attachment has no message
SELECT attachment.id AS attachment_id, chat_id, seq FROM attachment LEFT JOIN message USING (chat_id, seq)
WHERE chat_id IS NOT NULL AND (message.type IS NULL OR deleted_at IS NOT NULL);

-- a message has no attachment
SELECT chat_id, seq, type FROM message LEFT JOIN attachment USING (chat_id, seq)
WHERE type = ANY(CAST(:with_attachment AS text[])) AND deleted_at IS NULL AND attachment.id IS NULL;
