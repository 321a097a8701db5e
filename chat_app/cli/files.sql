-- What `inspection.py` asks about the rows of files. Each query has its name above it.

-- files of rows
SELECT id, key, size FROM attachment
UNION ALL SELECT id, preview_key, NULL FROM attachment WHERE preview_key IS NOT NULL
UNION ALL SELECT id, concat_ws('/', 'avatars', avatar_key, picture), NULL
FROM (SELECT id, avatar_key FROM "user" UNION ALL SELECT id, picture_key FROM chat) AS shown,
    unnest(CAST(:pictures AS text[])) AS picture WHERE avatar_key IS NOT NULL;

-- keys with a row
SELECT unnest(ARRAY[key, preview_key]) FROM attachment WHERE key = ANY(CAST(:files AS text[]))
UNION ALL SELECT avatar_key FROM "user" WHERE avatar_key = ANY(CAST(:avatars AS text[]))
UNION ALL SELECT picture_key FROM chat WHERE picture_key = ANY(CAST(:avatars AS text[]));

-- unsent attachments
SELECT id FROM attachment WHERE chat_id IS NULL AND created_at < :before;

-- delete unsent attachments
DELETE FROM attachment WHERE id = ANY($1::uuid[]) AND chat_id IS NULL RETURNING id, key, preview_key;
