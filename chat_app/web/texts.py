"""What the published documents say in prose, for a front-end developer who sees the service for the first time."""

from collections.abc import Iterable
from http import HTTPStatus

from chat_app.errors import ChatError

HTTP = """\
Everything a messenger needs: people, private and group chats, messages of every type, likes, pinned chats, live events.

### The first hour
1. Press **Authorize**. A development server has demo users: the username is a phone number from `+79000000001` (Anna)
   to `+79000000006`, the password `demo-password`. Leave the rest empty. Or register a number of your own below.
2. Run `GET /api/v1/chats`: each item has all that a row of the chat list shows.
3. Run `PUT /api/v1/chats/active` with the id of one of them: the answer has all that the chat's screen shows.
4. Send a message there: `POST /api/v1/chats/active/messages`. Each new message needs a new `client_id`.
5. Connect the official Socket.IO client and see it arrive. The events and the commands, which are these same
   operations over Socket.IO, are described at **[/docs/events/](/docs/events/)**; the payloads of the events are
   listed below as webhooks.

```js
const socket = io("http://localhost:8000", { auth: { token: access_token } });
socket.on("chats_changed", ({ chats, mine, removed }) => { /* update the list */ });
socket.on("messages_changed", ({ messages }) => { /* update the open chat */ });
```

### What holds everywhere
- Ids are UUIDs, times are UTC in ISO 8601, a message is known by its chat and its `seq`: 1, 2, 3 … without gaps.
- `client_id` is a UUID that you make: repeat a request whose answer got lost, and it is still done once.
- Inputs refuse fields they don't know, so that a typing error is noticed at once.
- `users` in an answer holds everybody whom the answer refers to.
- What you may not see does not exist: 404. What you see and may not do: 403.

### Errors
Every error is an RFC 9457 problem, `application/problem+json`. Branch on `code`; `request_id` finds the request in the
service's logs.

<details>
<summary>All codes</summary>

{errors}
</details>
"""

EVENTS = """\
The commands and events of the chat service over Socket.IO, written from the client's side: you *send* commands and
*receive* events. The same operations over HTTP, with a page to try them: **[/docs/](/docs/)**.

```js
const socket = io("http://localhost:8000", { auth: { token: access_token } });
socket.on("ready", ({ user_id, sync }) => { /* connected, now and after each reconnect */ });
socket.on("connect_error", (error) => { /* error.data.code, such as token_expired */ });
const { ok, status, data, error } = await socket.emitWithAck("list_chats", {});
```

### Connecting
- The official client, protocol version 5 (client 3 or newer), path `/socket.io`, the default namespace.
- `auth` is `{ token, active_chat_id? }`. Give it as a function, so that each reconnect has a fresh token:
  `auth: (give) => give({ token: currentToken(), active_chat_id: openChat() })`.
- A refused connection gets `connect_error` with the problem in `data`; the client does not try again by itself then.
- A session may have 20 connections to one node at a time, a user 50, an address 1,000; one more is refused with
  `too_many_connections`. A WebSocket that sends more than 2,000 frames in a second (100 before its login), or more than
  1 MiB in each of 20 seconds on end, is closed with the code 1008, one with a packet above 256 KiB with 1009.
- A connection lives as long as its session: an expired access token does not end it. Before the server ends one for
  good it sends `session_revoked`; in every other case the client reconnects by itself.

### Commands
- Each takes one object and is answered, in the order in which one connection sent them:
  `{ ok: true, status, data, request_id }` or `{ ok: false, error }`. `data` is the answer of the same operation over
  HTTP, null where that is 204; `request_id` finds it in the logs; `error` is the problem object. No argument is
  the same as `{}`.
- The answer comes after the change is stored for good. Use a time limit, `socket.timeout(10000).emitWithAck(…)`, and
  send a message whose answer got lost again with the same `client_id`: it is sent once.
- The active chat belongs to the connection. Without `chat_id`, `list_messages`, `send_message` and `set_typing` mean
  that chat.

### Versions: how to miss nothing
Every shared change of a chat takes the next `version` of that chat, what is personal takes the next `mine.version`.
- **The open chat.** `activate_chat` sets the version of your window; from then on only `messages_changed` and
  `list_changes` move it. An event whose `since` is above it: something is missing, call `list_changes {since}`.
  One whose `version` is not above it: ignore it. Otherwise merge its rows by `seq` and `user_id`, and take its
  `version`. Events that come before `activate_chat` is answered wait for that answer. If events were skipped while
  `list_changes` was under way, and the newest of them is above the version that it gave, call it again.
- **A removal.** `chats_changed` with the chat in `removed` closes it, for the service too, if that version is above the
  one at which `activate_chat` opened it. An older one comes late, from before you were added again.
- **The members.** `list_members` follows every `list_changes`, and every newest page that replaces your window. Rows
  above its `version` stay; of the others those that are missing go. Read positions only grow, and take no version.
- **Rows from other pages and answers** only merge: the greater row version wins. A message without `liked` keeps the
  `liked` you know.
- **The list.** Anything of an equal or greater `version` replaces the shared part of an entry, of an equal or greater
  `mine.version` its `mine`. Remember the version of a removal, and ignore whatever is at or below it.
- **After every `ready` but the first, and on `resync_required`**: call `list_chats {changed_since}`, all pages, with
  the `sync` of your last list, its first page (equal to `ready.sync`: nothing was missed); for the open chat call
  `list_changes` and `list_members`. Of several lists keep the `sync` that was read first: only all pages of
  `changed_since` move it on.

### Errors
Branch on `code`; `request_id` finds the command in the service's logs.

{errors}
"""


def with_errors(text: str, errors: Iterable[type[ChatError]]) -> str:
    """The text with a table of the codes, by status."""
    rows = (
        f"| {error.status} {HTTPStatus(error.status).phrase} | `{error.code}` | {(error.__doc__ or '').strip()} |\n"
        for error in sorted(errors, key=lambda error: error.status)
    )
    return text.replace("{errors}", "| status | code | meaning |\n|---|---|---|\n" + "".join(rows))
