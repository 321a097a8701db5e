-- The messages to be forwarded that their readers see, of locked chats: $1 has the user, chat and seq of each.
SELECT wanted.user_id AS reader_id, {columns},
    row_to_json(attachment)::text AS file, coalesce((forwarded ->> 'author_id')::uuid, sender_id) AS author_id
FROM json_to_recordset($1) AS wanted (user_id uuid, chat_id uuid, seq bigint)
JOIN membership USING (chat_id, user_id) JOIN chat ON chat.id = chat_id JOIN message USING (chat_id, seq)
LEFT JOIN attachment USING (chat_id, seq)
WHERE removed_at IS NULL AND chat.deleted_at IS NULL AND seq >= visible_from_seq
