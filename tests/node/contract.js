// The schemas of DESIGN §§7–8, written a second time: answers and events have exactly these fields.
import assert from "node:assert/strict";

const is = (name, test) => (value, path) => assert.ok(test(value), `${path} is not ${name}: ${JSON.stringify(value)}`);

const uuid = is("a UUID", (value) => /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/.test(value));
const time = is("a UTC time", (value) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$/.test(value));
const text = is("a string", (value) => typeof value === "string");
const flag = is("true or false", (value) => typeof value === "boolean");
const count = is("a whole number", (value) => Number.isSafeInteger(value) && value >= 0);
const number = is("a number", (value) => typeof value === "number");
const counts = is("an object of numbers", (value) => Object.values(value).every(Number.isSafeInteger));
const one = (...choices) => is(`one of ${choices}`, (value) => choices.includes(value));
const object = is("an object", (value) => value !== null && typeof value === "object" && !Array.isArray(value));
const nothing = is("null", (value) => value === null);
const orNull = (shape) => (value, path) => value === null || shape(value, path);
const list = (shape) => (value, path) => {
  assert.ok(Array.isArray(value), `${path} is not an array: ${JSON.stringify(value)}`);
  value.forEach((item, index) => shape(item, `${path}[${index}]`));
};
const fields = (required, optional = {}) => (value, path) => {
  assert.ok(value !== null && typeof value === "object", `${path} is not an object: ${JSON.stringify(value)}`);
  const absent = Object.keys(required).filter((name) => !(name in value));
  const unknown = Object.keys(value).filter((name) => !(name in required) && !(name in optional));
  assert.deepEqual({ absent, unknown }, { absent: [], unknown: [] }, path);
  if ("id" in value) assert.equal(Object.keys(value)[0], "id", `${path} begins with its id`);
  for (const [name, item] of Object.entries(value)) (required[name] ?? optional[name])(item, `${path}.${name}`);
};

const avatar = fields({ original: text, large: text, medium: text, small: text });
const userBrief = { id: uuid, name: text, avatar: orNull(avatar) };
const userRead = { ...userBrief, username: orNull(text), bio: text, extra: orNull(object), last_seen_at: orNull(time), online: flag };
const users = list(fields(userBrief));
const system = fields({
  event: one(
    "group_created",
    "became_group",
    "members_added",
    "member_removed",
    "member_left",
    "group_changed",
    "creator_changed",
  ),
  user_ids: list(uuid),
  title: orNull(text),
  fields: orNull(list(one("title", "description", "avatar"))),
});
const types = one("text", "image", "video", "audio", "voice", "file", "location", "contact", "custom", "system");
const preview = fields({
  seq: count,
  type: types,
  text: orNull(text),
  system: orNull(system),
  sender_id: uuid,
  sent_at: time,
  deleted_at: orNull(time),
});
const mine = {
  version: count,
  title: orNull(text),
  peer: orNull(fields(userBrief)),
  pinned_at: orNull(time),
  last_read_seq: count,
  others_read_seq: count,
  visible_from_seq: count,
  unread_count: count,
  muted_until: orNull(time),
  archived_at: orNull(time),
  marked_unread: flag,
  draft: orNull(fields({ text, reply_to: orNull(count), updated_at: time })),
  hidden: flag,
};
const unread = fields({ chats: count, messages: count });
const chatShared = {
  id: uuid,
  type: one("private", "group"),
  title: orNull(text),
  avatar: orNull(avatar),
  creator_id: orNull(uuid),
  member_count: count,
  message_count: count,
  last_message: orNull(preview),
  last_user_seq: count,
  version: count,
  created_at: time,
  updated_at: time,
};
const chatRead = fields({ ...chatShared, mine: fields(mine) });
const removedChat = fields({ chat_id: uuid, version: count, reason: one("left", "removed", "deleted") });
const members = list(
  fields({
    user_id: uuid,
    is_creator: flag,
    last_read_seq: count,
    joined_at: time,
    removed_at: orNull(time),
    version: count,
  }),
);
const attachment = fields({
  id: uuid,
  name: text,
  content_type: text,
  size: count,
  width: orNull(count),
  height: orNull(count),
  duration: orNull(number),
  waveform: orNull(list(count)),
  url: text,
  preview_url: orNull(text),
});
// By type. A message has null in the fields of the other types.
const payloads = {
  location: fields({ latitude: number, longitude: number }),
  contact: fields({ name: text, phone: text }),
  system,
};
const payload = (type) =>
  Object.fromEntries(Object.keys(payloads).map((name) => [name, name === type ? orNull(payloads[name]) : nothing]));
const messageShared = {
  chat_id: uuid,
  seq: count,
  version: count,
  client_id: orNull(uuid),
  type: types,
  text: orNull(text),
  attachment: orNull(attachment),
  reply_to: orNull(count),
  sender_id: uuid,
  like_count: count,
  sent_at: time,
  edited_at: orNull(time),
  deleted_at: orNull(time),
  extra: orNull(object),
  pinned_at: orNull(time),
  reactions: list(fields({ emoji: text, count })),
  forwarded: orNull(fields({ author_id: uuid, sent_at: time })),
};
const message = (required, optional) => (value, path) =>
  fields({ ...messageShared, ...payload(value?.type), ...required }, optional)(value, path);
const messageRead = message({ liked: flag, reacted: list(text) }, {});
const pinned = list(message({}, {}));
const messagePage = fields({
  items: list(messageRead),
  has_before: flag,
  has_after: flag,
  version: count,
  users,
  replied: list(messageRead),
});
const openChat = fields({
  chat: chatRead,
  page: messagePage,
  members,
  users,
  pinned,
  online: list(uuid),
  description: orNull(text),
});
const group = fields({
  chat_id: uuid,
  version: count,
  title: text,
  avatar: orNull(avatar),
  description: orNull(text),
});

const userPage = fields({ items: list(fields(userRead)), next_cursor: orNull(text) });

export const problem = fields(
  { type: text, title: text, status: count, detail: text, code: text, request_id: text },
  { errors: list(fields({ pointer: text, code: text, detail: text })), retry_after: count },
);

// The `data` of a successful answer by command.
export const answers = {
  list_chats: fields({
    items: list(chatRead),
    removed: list(removedChat),
    users,
    next_cursor: orNull(text),
    sync: text,
    unread: orNull(unread),
  }),
  create_group: chatRead,
  open_private_chat: chatRead,
  activate_chat: orNull(openChat),
  list_messages: messagePage,
  send_message: messageRead,
  get_chat: chatRead,
  rename_chat: chatRead,
  update_mine: chatRead,
  clear_chat: chatRead,
  pin_chat: chatRead,
  unpin_chat: chatRead,
  get_group: group,
  update_group: group,
  delete_group_avatar: nothing,
  set_creator: chatRead,
  delete_chat: nothing,
  leave_chat: nothing,
  list_members: fields({ items: members, users, version: count }),
  add_members: chatRead,
  remove_member: nothing,
  edit_message: messageRead,
  delete_message: nothing,
  get_message: messageRead,
  like_message: messageRead,
  unlike_message: messageRead,
  list_likes: userPage,
  search_messages: fields({
    items: list(messageRead),
    chats: list(
      fields({ id: uuid, type: one("private", "group"), title: orNull(text), peer: orNull(fields(userBrief)), mine_title: orNull(text) }),
    ),
    users,
    next_cursor: orNull(text),
  }),
  react: messageRead,
  unreact: messageRead,
  list_reactions: fields({ items: list(fields({ user: fields(userBrief), emoji: text })), next_cursor: orNull(text) }),
  pin_message: messageRead,
  unpin_message: messageRead,
  list_pinned_messages: fields({ items: pinned, users, version: count }),
  mark_read: chatRead,
  set_typing: nothing,
  list_changes: fields({
    since: count,
    version: count,
    message_count: count,
    messages: list(messageRead),
    members,
    users,
    replied: list(messageRead),
    has_more: flag,
    reset: flag,
  }),
};

// The payload by event.
export const events = {
  ready: fields({
    user_id: uuid,
    session_id: uuid,
    active_chat_id: orNull(uuid),
    sync: text,
    unread,
    limits: counts,
    server_time: time,
    online: list(uuid),
  }),
  chats_changed: fields({
    chats: list(fields(chatShared)),
    mine: list(fields({ chat_id: uuid, ...mine })),
    removed: list(removedChat),
    users,
  }),
  messages_changed: fields({
    chat_id: uuid,
    since: count,
    version: count,
    message_count: count,
    messages: list(message({}, { liked: flag, reacted: list(text) })),
    members,
    users,
    replied: list(message({}, {})),
  }),
  read_changed: fields({ chat_id: uuid, user_id: uuid, last_read_seq: count }),
  typing_changed: fields({ chat_id: uuid, user_id: uuid, typing: flag }),
  presence_changed: fields({ user_id: uuid, online: flag, last_seen_at: orNull(time) }),
  users_changed: fields({ users }),
  resync_required: fields({ reason: text }),
  session_revoked: fields({ code: text }),
};
