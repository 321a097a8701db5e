-- What the drafts of a batch are judged by, of each of their chats, which are locked: $1 has the drafts.
-- `members` has the present members: only they may send, and only they get the events. `people` are those of the
-- messages and of their quotes; in a private chat both know each other, but not the authors of forwarded messages.
WITH draft AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1) AS draft (chat_id uuid, sender_id uuid, client_id uuid, reply_to bigint)
), repeated AS MATERIALIZED (
    SELECT draft.*, seq, content_hash FROM draft, LATERAL (
        SELECT seq, content_hash FROM message
        WHERE chat_id = draft.chat_id AND sender_id = draft.sender_id AND client_id = draft.client_id LIMIT 1
    ) AS former
), quoted AS MATERIALIZED (
    SELECT message.chat_id, message.sender_id, message.type, payload, forwarded, ROW (
        {quoted}, row_to_json(attachment)::text
    ) AS found FROM draft, LATERAL (
        SELECT * FROM message WHERE chat_id = draft.chat_id AND seq = draft.reply_to LIMIT 1
    ) AS message LEFT JOIN attachment ON attachment.chat_id = message.chat_id AND attachment.seq = message.seq
    WHERE draft.reply_to IS NOT NULL
)
SELECT id, type, title, creator_id::text, member_count, message_count, version, created_at, updated_at, picture_key,
    clock_timestamp() AS now, members, visible_from, ARRAY(
        SELECT ROW (sender_id, client_id, seq, repeated.content_hash) FROM repeated WHERE chat_id = chat.id
    ) AS known, ARRAY(SELECT found FROM quoted WHERE chat_id = chat.id) AS quoted, ARRAY(
        SELECT ROW ("user".id, name, avatar_key) FROM "user" WHERE (
            chat.type = 'group' OR EXISTS (SELECT FROM quoted WHERE forwarded IS NOT NULL)
        ) AND "user".id = ANY(ARRAY(
            SELECT sender_id FROM draft WHERE chat_id = chat.id
            UNION ALL SELECT (forwarded ->> 'author_id')::uuid FROM quoted WHERE chat_id = chat.id
            UNION ALL SELECT sender_id FROM quoted WHERE chat_id = chat.id
            UNION ALL SELECT jsonb_array_elements_text(payload -> 'user_ids')::uuid FROM quoted
            WHERE chat_id = chat.id AND quoted.type = 'system'
        ))
    ) AS people
FROM chat, LATERAL (
    SELECT array_agg(user_id) AS members, array_agg(visible_from_seq) AS visible_from
    FROM membership WHERE chat_id = chat.id AND removed_at IS NULL
) AS present
WHERE id = ANY(ARRAY(SELECT chat_id FROM draft)) AND deleted_at IS NULL
