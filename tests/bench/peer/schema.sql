CREATE TABLE chats (id uuid PRIMARY KEY, title text NOT NULL);

CREATE TABLE members (
    chat_id uuid NOT NULL REFERENCES chats,
    user_id uuid NOT NULL,
    PRIMARY KEY (chat_id, user_id)
);
CREATE INDEX members_user_id_idx ON members (user_id);

CREATE TABLE messages (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chat_id uuid NOT NULL REFERENCES chats,
    sender_id uuid NOT NULL,
    text text NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX messages_chat_id_id_idx ON messages (chat_id, id);
