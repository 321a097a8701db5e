// The whole Socket.IO contract of DESIGN §8 through the official JavaScript client, against the running service.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, afterEach, before, describe, it } from "node:test";
import { exercised, Person, refusal } from "./client.js";
import { Service } from "./service.js";

const NOBODY = "00000000-0000-4000-8000-000000000000";
const DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";

let service;
let people = [];

const textMessage = (text, more = {}) => ({ client_id: randomUUID(), type: "text", text, ...more });
const seqs = (rows) => rows.map((row) => row.seq);

async function connected(...names) {
  const persons = await Promise.all(names.map((name) => Person.register(service, name)));
  people.push(...persons);
  await Promise.all(persons.map((person) => person.connect()));
  return persons;
}

/** Two users with their private chat open. */
async function pair() {
  const [anna, boris] = await connected("Anna", "Boris");
  const { data: chat } = await anna.ask("open_private_chat", { user_id: boris.id });
  await anna.ask("activate_chat", { chat_id: chat.id });
  await boris.ask("activate_chat", { chat_id: chat.id });
  return { anna, boris, chat };
}

/** A group that Anna created with Boris. Both have it open, and Clara is not in it. */
async function group() {
  const [anna, boris, clara] = await connected("Anna", "Boris", "Clara");
  const { data: chat } = await anna.ask("create_group", { title: "Hike", member_ids: [boris.id] });
  await anna.ask("activate_chat", { chat_id: chat.id });
  await boris.ask("activate_chat", { chat_id: chat.id });
  return { anna, boris, clara, chat };
}

before(async () => {
  service = await Service.create();
  await service.start();
});

afterEach(() => {
  const leaving = people;
  people = [];
  leaving.forEach((person) => person.close());
  leaving.forEach((person) => person.check());
});

after(() => service.remove());

describe("connecting", () => {
  it("is refused without a token", async () => {
    for (const auth of [undefined, {}, { token: "" }, { token: null }])
      assert.equal((await refusal(service, auth)).data.code, "not_authenticated");
  });

  it("is refused with what to do, in another namespace and with a token in another place", async () => {
    const anna = await Person.register(service, "Anna");
    const inPath = await refusal({ url: `${service.url}/api/v1` }, { token: anna.token });
    assert.equal(inPath.data.code, "not_found");
    assert.match(inPath.message, /connect without a path/);
    const inQuery = await refusal({ url: `${service.url}?token=${anna.token}` }, {});
    assert.match(inQuery.message, /in the URL or in a header/);
    const prefixed = await refusal(service, { token: `Bearer ${anna.token}` });
    assert.match(prefixed.message, /leave that word out/);
  });

  it("is refused with a token without a valid signature", async () => {
    assert.equal((await refusal(service, { token: "not.a.token" })).data.code, "not_authenticated");
  });

  it("is refused after the session was revoked", async () => {
    const anna = await Person.register(service, "Anna");
    assert.equal((await anna.request("POST", "/auth/logout")).status, 204);
    assert.equal((await refusal(service, { token: anna.token })).data.code, "session_revoked");
  });

  it("has the user and the session in ready", async () => {
    const anna = await Person.register(service, "Anna");
    people.push(anna);
    const ready = await anna.connect();
    assert.equal(ready.user_id, anna.id);
    assert.equal(ready.active_chat_id, null);
    assert.equal((await anna.ask("list_chats")).data.sync, ready.sync);
  });

  it("opens the chat of the handshake, if the user is in it", async () => {
    const { anna, chat } = await pair();
    for (const [wanted, active] of [[chat.id, chat.id], [NOBODY, null]]) {
      const device = await anna.another();
      people.push(device);
      assert.equal((await device.connect({ active_chat_id: wanted })).active_chat_id, active);
    }
  });

  it("ends with the session, for good", async () => {
    const [anna] = await connected("Anna");
    const phone = await anna.another();
    people.push(phone);
    const { session_id } = await phone.connect();
    const closed = new Promise((resolve) => phone.socket.once("disconnect", resolve));
    assert.equal((await anna.request("DELETE", `/auth/sessions/${session_id}`)).status, 204);
    assert.deepEqual(await phone.next("session_revoked"), { code: "session_revoked" });
    assert.equal(await closed, "io server disconnect");
    assert.equal(phone.socket.active, false);
    await anna.ask("list_chats");
  });
});

describe("every command", () => {
  it("is answered, also an unknown one", async () => {
    const [anna] = await connected("Anna");
    const { status, code } = await anna.refused("fly", {});
    assert.deepEqual({ status, code }, { status: 404, code: "unknown_command" });
  });

  it("refuses an invalid argument with a pointer to the fault", async () => {
    const [anna] = await connected("Anna");
    const wrong = [[{ user_id: "me" }], [{ user_id: anna.id, color: 1 }], [{}], [], ["text"], [null], [[1]], [{}, {}]];
    for (const argument of wrong) {
      const { status, code, errors } = await anna.refused("open_private_chat", ...argument);
      assert.deepEqual({ status, code }, { status: 422, code: "invalid_input" }, JSON.stringify(argument));
      assert.ok(errors.length > 0);
    }
    const { errors } = await anna.refused("open_private_chat", { user_id: "me" });
    assert.equal(errors[0].pointer, "/user_id");
  });

  it("takes a missing argument as an empty one", async () => {
    const [anna] = await connected("Anna");
    assert.deepEqual((await anna.ask("list_chats")).data.items, []);
  });

  it("gives a foreign chat the same answer as one that does not exist", async () => {
    const { clara, chat } = await group();
    const commands = ["get_chat", "activate_chat", "list_messages", "list_members", "pin_chat", "delete_chat"];
    for (const command of commands) {
      const theirs = await clara.refused(command, { chat_id: chat.id });
      const none = await clara.refused(command, { chat_id: NOBODY });
      assert.equal(theirs.code, "chat_not_found");
      assert.deepEqual({ ...theirs, request_id: "" }, { ...none, request_id: "" });
    }
  });

  it("runs in the order of its connection", async () => {
    const { anna } = await pair();
    const sent = await Promise.all(Array.from({ length: 30 }, (_, n) => anna.ask("send_message", textMessage(`${n}`))));
    assert.deepEqual(seqs(sent.map(({ data }) => data)), Array.from({ length: 30 }, (_, n) => n + 1));
  });
});

describe("a private chat", () => {
  it("is the same one for both users", async () => {
    const [anna, boris] = await connected("Anna", "Boris");
    const opened = await anna.ask("open_private_chat", { user_id: boris.id });
    const again = await boris.ask("open_private_chat", { user_id: anna.id });
    assert.deepEqual([opened.status, again.status], [201, 200]);
    assert.equal(again.data.id, opened.data.id);
    for (const [person, peer] of [[anna, boris], [boris, anna]]) {
      const { chats, mine } = await person.next("chats_changed");
      assert.deepEqual([chats.length, mine.length], [1, 1]);
      assert.equal(chats[0].id, opened.data.id);
      assert.equal(mine[0].peer.id, peer.id);
    }
    assert.equal((await anna.refused("open_private_chat", { user_id: NOBODY })).code, "user_not_found");
    assert.equal((await anna.refused("open_private_chat", { user_id: anna.id })).code, "invalid_input");
  });

  it("has to be active for commands without a chat_id", async () => {
    const [anna] = await connected("Anna");
    assert.equal((await anna.refused("send_message", textMessage("Hello?"))).code, "no_active_chat");
    assert.equal((await anna.refused("list_messages")).code, "no_active_chat");
  });

  it("delivers a message to both, once", async () => {
    const { anna, boris, chat } = await pair();
    const draft = textMessage("Hello!");
    const sent = await anna.ask("send_message", draft);
    assert.deepEqual([sent.status, sent.data.seq, sent.data.sender_id], [201, 1, anna.id]);
    for (const person of [anna, boris]) {
      const changed = await person.next("messages_changed");
      assert.deepEqual([changed.chat_id, changed.message_count, seqs(changed.messages)], [chat.id, 1, [1]]);
      assert.equal(changed.version, sent.data.version);
      assert.equal(changed.since, changed.version - 1);
      const { chats } = await person.next("chats_changed", ({ chats }) => chats[0]?.message_count === 1);
      assert.equal(chats[0].last_message.text, "Hello!");
    }
    anna.forget();
    boris.forget();
    const again = await anna.ask("send_message", draft);
    assert.deepEqual([again.status, again.data.seq], [200, 1]);
    assert.equal((await anna.refused("send_message", { ...draft, text: "Other" })).code, "client_id_reused");
    assert.deepEqual([await anna.eventNames(), await boris.eventNames()], [[], []]);
  });

  it("carries messages of every type", async () => {
    const { anna, boris } = await pair();
    const form = new FormData();
    form.set("file", new Blob([Buffer.from(DOT, "base64")], { type: "image/png" }), "dot.png");
    const upload = await anna.request("POST", "/attachments", { form });
    assert.equal(upload.status, 201, JSON.stringify(upload.data));
    await anna.ask("send_message", textMessage("One"));
    await anna.ask("send_message", textMessage("Two", { reply_to: 1 }));
    await anna.ask("send_message", { client_id: randomUUID(), type: "location", latitude: 55.75, longitude: 37.62 });
    await anna.ask("send_message", { client_id: randomUUID(), type: "contact", name: "Clara", phone: "8 916 1234567" });
    const poll = { type: "custom", extra: { poll: { options: ["yes", "no"] } }, text: "A poll" };
    await anna.ask("send_message", { client_id: randomUUID(), ...poll });
    const picture = { type: "image", attachment_id: upload.data.id, text: "Look" };
    await anna.ask("send_message", { client_id: randomUUID(), ...picture });
    const { data: page } = await boris.ask("list_messages");
    assert.deepEqual(page.items.map(({ type }) => type), ["text", "text", "location", "contact", "custom", "image"]);
    assert.equal(page.items[1].reply_to, 1);
    assert.deepEqual(page.items[2].location, { latitude: 55.75, longitude: 37.62 });
    assert.deepEqual(page.items[3].contact, { name: "Clara", phone: "8 916 1234567" });
    assert.deepEqual([page.items[4].extra, page.items[4].text], [poll.extra, poll.text]);
    assert.equal(page.items[5].attachment.id, upload.data.id);
    const system = { client_id: randomUUID(), type: "system", text: "I am the service" };
    assert.equal((await anna.refused("send_message", system)).code, "invalid_input");
    assert.equal((await anna.refused("send_message", textMessage("?", { reply_to: 99 }))).code, "message_not_found");
  });

  it("is read page by page", async () => {
    const { anna, boris, chat } = await pair();
    for (let n = 1; n <= 7; n++) await anna.ask("send_message", textMessage(`${n}`));
    const page = async (bounds) => (await boris.ask("list_messages", { chat_id: chat.id, ...bounds })).data;
    const newest = await page({ limit: 3 });
    assert.deepEqual([seqs(newest.items), newest.has_before, newest.has_after], [[5, 6, 7], true, false]);
    assert.deepEqual(seqs((await page({ before: 5, limit: 3 })).items), [2, 3, 4]);
    assert.deepEqual(seqs((await page({ after: 5 })).items), [6, 7]);
    assert.ok(seqs((await page({ around: 4, limit: 3 })).items).includes(4));
    const two = await boris.refused("list_messages", { chat_id: chat.id, before: 5, after: 1 });
    assert.equal(two.code, "invalid_input");
    assert.equal((await boris.ask("get_message", { chat_id: chat.id, seq: 4 })).data.text, "4");
    assert.equal((await boris.refused("get_message", { chat_id: chat.id, seq: 8 })).code, "message_not_found");
  });

  it("finds messages by words and by type", async () => {
    const { anna, boris, chat } = await pair();
    for (const words of ["Meet at the station", "Where?"]) await anna.ask("send_message", textMessage(words));
    const { data: found } = await boris.ask("search_messages", { query: "MEET stat" });
    assert.deepEqual([seqs(found.items), found.next_cursor], [[1], null]);
    assert.deepEqual([found.chats[0].id, found.chats[0].peer.id], [chat.id, anna.id]);
    const gallery = async (more) => (await boris.ask("search_messages", { chat_id: chat.id, types: ["text"], ...more })).data;
    const first = await gallery({ limit: 1 });
    assert.deepEqual(seqs(first.items), [2]);
    assert.deepEqual(seqs((await gallery({ limit: 1, cursor: first.next_cursor })).items), [1]);
    assert.equal((await boris.refused("search_messages", { types: ["text"] })).code, "invalid_input");
  });

  it("shows edits, likes and deletions as they happen", async () => {
    const { anna, boris, chat } = await pair();
    await anna.ask("send_message", textMessage("Helo"));
    const first = { chat_id: chat.id, seq: 1 };
    const change = (person, condition) =>
      person.next("messages_changed", ({ messages: [row] }) => row && condition(row));

    assert.equal((await boris.refused("edit_message", { ...first, text: "No" })).code, "not_author");
    const marked = await anna.ask("edit_message", { ...first, extra: { color: "teal" } });
    assert.deepEqual([marked.data.extra, marked.data.edited_at], [{ color: "teal" }, null]);
    await change(boris, (row) => row.extra?.color === "teal");
    assert.notEqual((await anna.ask("edit_message", { ...first, text: "Hello" })).data.edited_at, null);
    await change(boris, (row) => row.text === "Hello" && row.edited_at);

    const { data: liked } = await boris.ask("like_message", first);
    assert.deepEqual([liked.liked, liked.like_count], [true, 1]);
    assert.equal((await change(boris, (row) => row.like_count === 1)).messages[0].liked, true);
    assert.ok(!("liked" in (await change(anna, (row) => row.like_count === 1)).messages[0]));
    assert.equal((await boris.ask("like_message", first)).data.version, liked.version);
    assert.deepEqual((await anna.ask("list_likes", first)).data.items.map(({ id }) => id), [boris.id]);
    const around = { chat_id: chat.id, around_time: liked.sent_at };
    assert.deepEqual(seqs((await anna.ask("list_messages", around)).data.items), [1]);
    assert.equal((await boris.ask("unlike_message", first)).data.like_count, 0);

    assert.equal((await boris.refused("delete_message", first)).code, "not_author");
    assert.equal((await anna.ask("delete_message", first)).status, 204);
    const { messages: [tombstone] } = await change(boris, (row) => row.deleted_at);
    assert.equal(tombstone.text, null);
    assert.equal((await anna.ask("get_message", first)).data.text, null);
    assert.equal((await boris.refused("like_message", first)).code, "message_deleted");
    assert.equal((await anna.refused("edit_message", { ...first, text: "Back" })).code, "message_deleted");
  });

  it("counts reactions, and shows their user the own ones", async () => {
    const { anna, boris, chat } = await pair();
    await anna.ask("send_message", textMessage("Done!"));
    const first = { chat_id: chat.id, seq: 1 };
    const change = (person, condition) =>
      person.next("messages_changed", ({ messages: [row] }) => row && condition(row));

    // The keyboard left out the selector.
    const { data } = await boris.ask("react", { ...first, emoji: "\u2764" });
    assert.deepEqual([data.reactions, data.reacted], [[{ emoji: "❤️", count: 1 }], ["❤️"]]);
    assert.deepEqual((await change(boris, (row) => row.reactions.length === 1)).messages[0].reacted, ["❤️"]);
    assert.ok(!("reacted" in (await change(anna, (row) => row.reactions.length === 1)).messages[0]));
    const { data: page } = await anna.ask("list_reactions", first);
    assert.deepEqual(page.items.map(({ user, emoji }) => [user.id, emoji]), [[boris.id, "❤️"]]);
    assert.deepEqual((await boris.ask("unreact", { ...first, emoji: "❤️" })).data.reactions, []);
    assert.equal((await boris.refused("react", { ...first, emoji: "heart" })).code, "invalid_input");
    for (const emoji of ["👍", "🎉", "🔥"]) await boris.ask("react", { ...first, emoji });
    assert.equal((await boris.refused("react", { ...first, emoji: "🚀" })).code, "too_many_reactions");
  });

  it("pins messages for both", async () => {
    const { anna, boris, chat } = await pair();
    for (const words of ["One", "Two"]) await anna.ask("send_message", textMessage(words));
    for (const seq of [2, 1]) await boris.ask("pin_message", { chat_id: chat.id, seq });
    await anna.next("messages_changed", ({ messages: [row] }) => row?.seq === 1 && row.pinned_at);
    assert.deepEqual(seqs((await anna.ask("list_pinned_messages", { chat_id: chat.id })).data.items), [1, 2]);
    assert.deepEqual(seqs((await anna.ask("activate_chat", { chat_id: chat.id })).data.pinned), [1, 2]);
    const { data } = await anna.ask("unpin_message", { chat_id: chat.id, seq: 1 });
    assert.equal(data.pinned_at, null);
    await boris.next("messages_changed", ({ version }) => version === data.version);
  });

  it("passes messages on, with the name of their author", async () => {
    const { anna, boris, chat } = await pair();
    const [clara] = await connected("Clara");
    const { data: sent } = await anna.ask("send_message", textMessage("Look"));
    const { data: other } = await boris.ask("open_private_chat", { user_id: clara.id });
    await clara.ask("activate_chat", { chat_id: other.id });
    const draft = { type: "forward", client_id: randomUUID(), from_chat_id: chat.id, from_seq: 1 };
    const { status, data } = await boris.ask("send_message", { chat_id: other.id, ...draft });
    assert.deepEqual([status, data.type, data.text, data.sender_id], [201, "text", "Look", boris.id]);
    assert.deepEqual(data.forwarded, { author_id: anna.id, sent_at: sent.sent_at });
    const { users } = await clara.next("messages_changed", ({ messages: [row] }) => row?.forwarded);
    assert.ok(users.some(({ id }) => id === anna.id));
    assert.equal((await boris.refused("edit_message", { chat_id: other.id, seq: 1, text: "Mine" })).code, "not_author");
    const hidden = { ...draft, client_id: randomUUID(), chat_id: other.id };
    assert.equal((await clara.refused("send_message", hidden)).code, "message_not_found");
  });

  it("shows how far the other one has read", async () => {
    const { anna, boris, chat } = await pair();
    await anna.ask("send_message", textMessage("One"));
    await anna.ask("send_message", textMessage("Two"));
    assert.equal((await boris.ask("get_chat", { chat_id: chat.id })).data.mine.unread_count, 2);
    const { data } = await boris.ask("mark_read", { chat_id: chat.id, seq: 2 });
    assert.deepEqual([data.mine.last_read_seq, data.mine.unread_count], [2, 0]);
    assert.deepEqual(await anna.next("read_changed"), { chat_id: chat.id, user_id: boris.id, last_read_seq: 2 });
    assert.equal((await boris.ask("mark_read", { chat_id: chat.id, seq: 1 })).data.mine.last_read_seq, 2);
    assert.equal((await anna.ask("get_chat", { chat_id: chat.id })).data.mine.others_read_seq, 2);
  });

  it("lists chats by their ids", async () => {
    const { anna, chat } = await pair();
    const { data } = await anna.ask("list_chats", { ids: [NOBODY, chat.id] });
    assert.deepEqual(data.items.map(({ id }) => id), [chat.id]);
    const both = { ids: [chat.id], changed_since: data.sync };
    assert.equal((await anna.refused("list_chats", both)).code, "invalid_input");
  });

  it("shows the other user who is typing, wherever that is", async () => {
    const { anna, boris, chat } = await pair();
    await anna.ask("activate_chat", { chat_id: null });
    boris.forget();
    await boris.ask("set_typing", { typing: true });
    assert.deepEqual(await anna.next("typing_changed"), { chat_id: chat.id, user_id: boris.id, typing: true });
    await boris.ask("set_typing", { chat_id: chat.id, typing: false });
    await anna.next("typing_changed", ({ typing }) => !typing);
    assert.deepEqual(await boris.eventNames(), []);
  });

  it("shows when the other user goes online and offline", async () => {
    const { anna, boris, chat } = await pair();
    const { data } = await anna.ask("activate_chat", { chat_id: chat.id });
    assert.deepEqual(data.online.sort(), [anna.id, boris.id].sort());
    boris.close();
    // A reconnect within ten seconds causes no event.
    const left = await anna.next("presence_changed", (event) => !event.online, 20_000);
    assert.equal(left.user_id, boris.id);
    assert.notEqual(left.last_seen_at, null);
    boris.forget();
    assert.deepEqual((await boris.connect()).online, [anna.id]);
    const back = await anna.next("presence_changed", (event) => event.online);
    assert.deepEqual(back, { ...left, online: true });
  });

  it("shows a new name of the other user", async () => {
    const { anna, boris } = await pair();
    assert.equal((await boris.request("PATCH", "/users/me", { json: { name: "Borya" } })).status, 200);
    const { users } = await anna.next("users_changed");
    assert.deepEqual(users.map(({ id, name }) => [id, name]), [[boris.id, "Borya"]]);
    await anna.next("chats_changed", ({ mine: [own] }) => own?.peer?.name === "Borya");
  });

  it("returns the changes since a version", async () => {
    const { anna, boris, chat } = await pair();
    await anna.ask("send_message", textMessage("One"));
    const { data: open } = await boris.ask("activate_chat", { chat_id: chat.id });
    await anna.ask("edit_message", { chat_id: chat.id, seq: 1, text: "Uno" });
    await anna.ask("send_message", textMessage("Two"));
    const { data } = await boris.ask("list_changes", { chat_id: chat.id, since: open.page.version });
    assert.deepEqual(data.messages.map(({ text }) => text), ["Uno", "Two"]);
    assert.deepEqual([data.has_more, data.reset], [false, false]);
    assert.deepEqual((await boris.ask("list_changes", { chat_id: chat.id, since: data.version })).data.messages, []);
    assert.equal((await boris.ask("list_changes", { chat_id: chat.id, since: data.version + 1 })).data.reset, true);
  });

  it("keeps an own title and a pin to their user", async () => {
    const { anna, boris, chat } = await pair();
    boris.forget();
    assert.equal((await anna.ask("rename_chat", { chat_id: chat.id, title: "B." })).data.mine.title, "B.");
    await anna.next("chats_changed", ({ mine }) => mine[0]?.title === "B.");
    assert.notEqual((await anna.ask("pin_chat", { chat_id: chat.id })).data.mine.pinned_at, null);
    await anna.next("chats_changed", ({ mine }) => mine[0]?.pinned_at);
    assert.equal((await anna.ask("unpin_chat", { chat_id: chat.id })).data.mine.pinned_at, null);
    assert.equal((await anna.ask("rename_chat", { chat_id: chat.id, title: null })).data.mine.title, null);
    assert.deepEqual(await boris.eventNames(), []);
  });

  it("keeps muting, archive, mark and draft to their user", async () => {
    const { anna, boris, chat } = await pair();
    await anna.ask("send_message", textMessage("One"));
    // Of the message.
    await Promise.all([anna.eventNames(), boris.eventNames()]);
    boris.forget();
    anna.forget();
    const own = { muted_until: "2100-01-01T00:00:00Z", archived: true, marked_unread: true };
    const { data } = await boris.ask("update_mine", { chat_id: chat.id, ...own, draft: { text: "Two", reply_to: 1 } });
    const { mine: [changed] } = await boris.next("chats_changed");
    assert.deepEqual([data.mine.muted_until, data.mine.marked_unread], [own.muted_until, true]);
    assert.deepEqual([data.mine.draft.text, data.mine.draft.reply_to], ["Two", 1]);
    assert.deepEqual(changed, { chat_id: chat.id, ...data.mine });
    assert.deepEqual((await boris.ask("list_chats", { archived: true })).data.items, [data]);
    assert.deepEqual((await boris.ask("list_chats", { archived: false })).data.items, []);
    assert.deepEqual((await boris.ask("list_chats")).data.unread, { chats: 0, messages: 0 });
    const loud = { unset: ["muted_until", "archived", "draft"] };
    assert.equal((await boris.ask("update_mine", { chat_id: chat.id, ...loud })).data.mine.draft, null);
    assert.deepEqual((await boris.ask("list_chats")).data.unread, { chats: 1, messages: 1 });
    assert.equal((await boris.ask("mark_read", { chat_id: chat.id, seq: 1 })).data.mine.marked_unread, false);
    const unseen = { chat_id: chat.id, draft: { text: "?", reply_to: 9 } };
    assert.equal((await boris.refused("update_mine", unseen)).code, "message_not_found");
    assert.deepEqual(await anna.eventNames(), ["read_changed"]);
  });

  it("can be cleared and hidden by one of the two", async () => {
    const { anna, boris, chat } = await pair();
    await anna.ask("send_message", textMessage("One"));
    const { data } = await boris.ask("clear_chat", { chat_id: chat.id, hide: true });
    assert.deepEqual([data.mine.visible_from_seq, data.mine.hidden, data.last_message], [2, true, null]);
    assert.deepEqual(await anna.next("read_changed"), { chat_id: chat.id, user_id: boris.id, last_read_seq: 1 });
    assert.deepEqual((await boris.ask("list_messages")).data.items, []);
    assert.deepEqual((await boris.ask("list_chats")).data.items, []);
    await anna.ask("send_message", textMessage("Two"));
    assert.deepEqual((await boris.ask("list_chats")).data.items.map(({ id }) => id), [chat.id]);
    assert.deepEqual(seqs((await anna.ask("list_messages")).data.items), [1, 2]);
  });

  it("is not a group until a third user is added", async () => {
    const { anna, boris, chat } = await pair();
    const [clara] = await connected("Clara");
    for (const command of ["leave_chat", "delete_chat"])
      assert.equal((await anna.refused(command, { chat_id: chat.id })).code, "not_a_group");
    const removal = { chat_id: chat.id, user_id: boris.id };
    assert.equal((await anna.refused("remove_member", removal)).code, "not_a_group");
    const { data } = await boris.ask("add_members", { chat_id: chat.id, user_ids: [clara.id], title: "Three" });
    assert.deepEqual([data.id, data.type, data.creator_id, data.title], [chat.id, "group", boris.id, "Three"]);
    for (const person of [anna, clara]) {
      const { mine } = await person.next("chats_changed", ({ chats }) => chats[0]?.type === "group");
      assert.equal(mine[0].peer, null);
    }
    const again = await anna.ask("open_private_chat", { user_id: boris.id });
    assert.deepEqual([again.status, again.data.id === chat.id], [201, false]);
  });

  it("sends no messages after the active chat was cleared", async () => {
    const { anna, boris, chat } = await pair();
    assert.equal((await boris.ask("activate_chat", { chat_id: null })).status, 204);
    boris.forget();
    await anna.ask("send_message", textMessage("Are you there?"));
    assert.deepEqual(await boris.eventNames(), ["chats_changed"]);
    assert.equal((await anna.ask("get_chat", { chat_id: chat.id })).data.message_count, 1);
  });

  it("opens on connections without a choice of their own when HTTP sets it", async () => {
    const { anna, boris, chat } = await pair();
    const tablet = await boris.another();
    people.push(tablet);
    await tablet.connect();
    assert.equal((await tablet.request("PUT", "/chats/active", { json: { chat_id: chat.id } })).status, 200);
    await anna.ask("send_message", textMessage("On every screen"));
    assert.deepEqual(seqs((await tablet.next("messages_changed")).messages), [1]);
  });
});

describe("a group", () => {
  it("is created once, and its members get it", async () => {
    const [anna, boris] = await connected("Anna", "Boris");
    const founding = { title: "Hike", member_ids: [boris.id], client_id: randomUUID() };
    const founded = await anna.ask("create_group", founding);
    const again = await anna.ask("create_group", founding);
    assert.deepEqual([founded.status, again.status, again.data.id], [201, 200, founded.data.id]);
    const { chats, mine } = await boris.next("chats_changed");
    assert.deepEqual([chats[0].title, chats[0].member_count, mine.length], ["Hike", 2, 1]);
    assert.equal(chats[0].last_message.system.event, "group_created");
    assert.equal((await anna.refused("create_group", { ...founding, title: "Other" })).code, "client_id_reused");
    assert.equal((await anna.refused("create_group", { title: "Alone", member_ids: [] })).code, "invalid_input");
  });

  it("shows newcomers later messages, or all that the adder sees", async () => {
    const { anna, boris, clara, chat } = await group();
    const [david] = await connected("David");
    await anna.ask("send_message", textMessage("Before"));
    await boris.ask("add_members", { chat_id: chat.id, user_ids: [clara.id] });
    await anna.ask("add_members", { chat_id: chat.id, user_ids: [david.id], share_history: true });
    const { data: page } = await clara.ask("list_messages", { chat_id: chat.id });
    assert.deepEqual(page.items.map(({ system }) => system.event), ["members_added", "members_added"]);
    assert.equal((await david.ask("list_messages", { chat_id: chat.id })).data.items.length, 4);
    const { data } = await anna.ask("list_members", { chat_id: chat.id });
    const ids = [anna, boris, clara, david].map(({ id }) => id);
    assert.deepEqual(new Set(data.items.map(({ user_id }) => user_id)), new Set(ids));
    assert.deepEqual(data.items.filter(({ is_creator }) => is_creator).map(({ user_id }) => user_id), [anna.id]);
    const joined = await boris.next("messages_changed", ({ members: [row] }) => row?.user_id === clara.id);
    assert.deepEqual(joined.users.map(({ id }) => id), [clara.id]);
  });

  it("sends nothing more to a removed member", async () => {
    const { anna, boris, chat } = await group();
    const removal = { chat_id: chat.id, user_id: boris.id };
    assert.equal((await boris.refused("remove_member", { chat_id: chat.id, user_id: anna.id })).code, "not_creator");
    const oneself = { chat_id: chat.id, user_id: anna.id };
    assert.equal((await anna.refused("remove_member", oneself)).code, "creator_cannot_leave");
    assert.equal((await anna.ask("remove_member", removal)).status, 204);
    const { removed } = await boris.next("chats_changed", ({ removed }) => removed.length);
    assert.deepEqual([removed[0].chat_id, removed[0].reason], [chat.id, "removed"]);
    boris.forget();
    await anna.ask("send_message", textMessage("Secret"));
    assert.deepEqual(await boris.eventNames(), []);
    assert.equal((await boris.refused("list_messages", { chat_id: chat.id })).code, "chat_not_found");
    assert.equal((await boris.refused("list_messages")).code, "no_active_chat");
    assert.equal((await anna.refused("remove_member", removal)).code, "member_not_found");
  });

  it("has a profile that its creator changes", async () => {
    const { anna, boris, chat } = await group();
    const where = { chat_id: chat.id };
    assert.equal((await boris.refused("update_group", { ...where, title: "Mine" })).code, "not_creator");
    assert.equal((await anna.refused("update_group", where)).code, "invalid_input");
    const { data } = await anna.ask("update_group", { ...where, title: "Walk", description: "On Saturdays" });
    assert.deepEqual([data.title, data.description], ["Walk", "On Saturdays"]);
    const { messages } = await boris.next("messages_changed", ({ messages: [row] }) => row?.system);
    const { event, fields, title } = messages[0].system;
    assert.deepEqual([event, fields, title], ["group_changed", ["title", "description"], "Walk"]);
    assert.equal((await boris.ask("get_group", where)).data.description, "On Saturdays");
    assert.equal((await boris.ask("activate_chat", where)).data.description, "On Saturdays");
    const image = { json: { image: DOT } };
    assert.equal((await anna.request("PUT", `/chats/${chat.id}/avatar`, image)).status, 200);
    await boris.next("chats_changed", ({ chats: [entry] }) => entry?.avatar);
    assert.equal((await anna.ask("delete_group_avatar", where)).status, 204);
    await boris.next("chats_changed", ({ chats: [entry] }) => entry?.last_message.seq === 4 && entry.avatar === null);
    assert.equal((await anna.ask("update_group", { ...where, unset: ["description"] })).data.description, null);
  });

  it("is handed over by its creator, who may leave then", async () => {
    const { anna, boris, clara, chat } = await group();
    const where = { chat_id: chat.id };
    assert.equal((await anna.refused("set_creator", { ...where, user_id: clara.id })).code, "member_not_found");
    const { data } = await anna.ask("set_creator", { ...where, user_id: boris.id });
    assert.equal(data.creator_id, boris.id);
    const change = await boris.next("messages_changed", ({ messages: [row] }) => row?.system);
    assert.deepEqual(change.messages[0].system.user_ids, [boris.id]);
    assert.deepEqual(change.members.filter((row) => row.is_creator).map(({ user_id }) => user_id), [boris.id]);
    assert.equal((await anna.refused("set_creator", { ...where, user_id: anna.id })).code, "not_creator");
    assert.equal((await anna.ask("leave_chat", where)).status, 204);
  });

  it("can be left by all but its creator", async () => {
    const { anna, boris, chat } = await group();
    assert.equal((await anna.refused("leave_chat", { chat_id: chat.id })).code, "creator_cannot_leave");
    assert.equal((await boris.ask("leave_chat", { chat_id: chat.id })).status, 204);
    const { removed } = await boris.next("chats_changed", ({ removed }) => removed.length);
    assert.equal(removed[0].reason, "left");
    const change = await anna.next("messages_changed", ({ members: [row] }) => row?.user_id === boris.id);
    assert.notEqual(change.members[0].removed_at, null);
    assert.equal(change.messages[0].system.event, "member_left");
  });

  it("is deleted for all members by its creator", async () => {
    const { anna, boris, chat } = await group();
    assert.equal((await boris.refused("delete_chat", { chat_id: chat.id })).code, "not_creator");
    assert.equal((await anna.ask("delete_chat", { chat_id: chat.id })).status, 204);
    for (const person of [anna, boris]) {
      const { removed } = await person.next("chats_changed", ({ removed }) => removed.length);
      assert.deepEqual([removed[0].chat_id, removed[0].reason], [chat.id, "deleted"]);
      assert.equal((await person.refused("get_chat", { chat_id: chat.id })).code, "chat_not_found");
    }
  });
});

describe("a restart", () => {
  it("loses nothing, and clients reconnect by themselves", async () => {
    const { anna, boris, chat } = await group();
    await anna.ask("send_message", textMessage("Still here?"));
    await boris.ask("pin_chat", { chat_id: chat.id });
    const [list, page] = [await boris.ask("list_chats"), await boris.ask("list_messages")];
    people.forEach((person) => person.forget());
    await service.stop();
    await service.start();
    const ready = await boris.next("ready");
    assert.deepEqual([ready.user_id, ready.active_chat_id, ready.sync], [boris.id, chat.id, list.data.sync]);
    assert.deepEqual((await boris.ask("list_chats")).data, list.data);
    assert.deepEqual((await boris.ask("list_messages")).data, page.data);
    await anna.next("ready");
    await anna.ask("send_message", textMessage("Yes."));
    assert.deepEqual(seqs((await boris.next("messages_changed")).messages), [3]);
    const missed = await boris.ask("list_chats", { changed_since: list.data.sync });
    assert.deepEqual(missed.data.items.map(({ id }) => id), [chat.id]);
  });
});

describe("this test", () => {
  it("used every command and event of the published document", async () => {
    const { data: document } = await service.request("GET", "/asyncapi.json");
    const operations = Object.entries(document.operations);
    const named = (action) => operations.filter(([, operation]) => operation.action === action);
    const commands = named("send").map(([name]) => name).filter((name) => name !== "connect");
    // It reports a failure inside the service, which no client can cause.
    const events = named("receive").map(([name]) => name).filter((name) => name !== "resync_required");
    assert.deepEqual([...exercised.commands].sort(), commands.sort());
    assert.deepEqual([...exercised.events].sort(), events.sort());
  });
});
