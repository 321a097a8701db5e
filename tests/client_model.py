"""A reference client: it follows the rules of `chat_app/web/content/events.md` and depends on nothing else of the
service.

It takes answers and the events of one connection in their order, and keeps a chat list, one open window and a
directory of users. It opens no connection and sends nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

PAGE = 50
MOST_IDS = 100
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
PAYLOADS = ("location", "contact", "system")
# What a message without them leaves as it was known, or unknown. Nobody but its sender has seen a new message.
UNKNOWN: Json = {"liked": None, "reacted": None}
NOTHING: Json = {"liked": False, "reacted": []}
# Events without anything that a snapshot has.
PASSING = {"ready", "presence_changed", "typing_changed"}
# What an earlier version lacks in the own part of a chat.
OWN_DEFAULTS = {"muted_until": None, "archived_at": None, "marked_unread": False, "draft": None, "hidden": False}


@dataclass
class Entry:
    """A chat of the list: the shared part and the user's own part.

    `own_seq`: the greatest seq of the user's own messages, `own_user_seq` without system messages.
    """

    shared: Json
    mine: Json | None = None
    own_seq: int = 0
    own_user_seq: int = 0

    @property
    def is_out_of_sight(self) -> bool:
        """Cleared and hidden, until the next message."""
        mine = self.mine or {}
        return bool(mine.get("hidden")) and self.shared["message_count"] < mine["visible_from_seq"]

    def others_read(self, seq: int) -> None:
        if self.mine:
            self.mine["others_read_seq"] = max(self.mine["others_read_seq"], seq)

    def state(self) -> Json:
        """The entry as it is shown and compared: an own part from before an own message shows that message as read, and
        neither the mark nor the draft that it took. Nothing before the visible start is shown.
        """
        shared = {name: value for name, value in self.shared.items() if name != "version"}
        if self.mine is None:
            return shared | {"mine": None}
        mine = {name: value for name, value in self.mine.items() if name not in ("version", "others_read_seq")}
        mine = OWN_DEFAULTS | mine
        position = max(mine["last_read_seq"], self.own_seq)
        own = {"last_read_seq": position, "unread_count": unread_count(self.shared, position)}
        own["marked_unread"] = mine["marked_unread"] and mine["last_read_seq"] >= self.own_seq
        own["draft"] = mine["draft"] if mine["last_read_seq"] >= self.own_user_seq else None
        if shared["last_message"] and shared["last_message"]["seq"] < mine["visible_from_seq"]:
            shared["last_message"] = None
        # Nodes of the former release send events without it, while they run beside this one.
        last_user_seq = self.shared.get("last_user_seq", self.shared["message_count"])
        return shared | {"last_user_seq": last_user_seq, "mine": mine | own}

    def place(self) -> tuple[float, float, str]:
        """The sort key in the list: pinned first, then the latest updated, then by id."""
        pinned_at = (self.mine or {}).get("pinned_at")
        pinned = datetime.fromisoformat(pinned_at) if pinned_at else NEVER
        updated = datetime.fromisoformat(self.shared["updated_at"])
        return -pinned.timestamp(), -updated.timestamp(), self.shared["id"]


def unread_count(shared: Json, position: int) -> int:
    """System messages do not make a read chat unread."""
    count: int = shared["message_count"]
    return count - position if shared.get("last_user_seq", count) > position else 0


@dataclass
class Window:
    """An open chat. Only `messages_changed` and `changes` move its version; everything else merges rows.

    `opened`: the version at which the chat was opened. It stays when a newest page replaces the window, since for the
    service that opens nothing anew. `first`: the first seq of the window; rows below it are kept beside it, but none
    below `visible_from`.
    """

    chat_id: str
    opened: int
    version: int
    message_count: int
    first: int = 1
    messages: dict[int, Json] = field(default_factory=dict)
    members: dict[str, Json] = field(default_factory=dict)
    # The greatest read position of each user, whether a member or not.
    read: dict[str, int] = field(default_factory=dict)
    # The version of the newest event that was skipped.
    skipped: int = 0
    visible_from: int = 1
    # Of a group, with the version at which it was read, and the least at which it has to be read.
    description: str | None = None
    described: int = 0
    redescribed: int = 0

    @property
    def has_gap(self) -> bool:
        """An event was skipped, so `list_changes` has to be called."""
        return self.skipped > self.version

    def merge_message(self, message: Json) -> None:
        """The greater row version wins. A winner without `liked` and `reacted` keeps the known ones; None: unknown."""
        message = _current(message)
        self.has_read(message["sender_id"], message["seq"])
        if message["seq"] < self.visible_from:
            return
        if "description" in ((message.get("system") or {}).get("fields") or ()):
            self.redescribed = max(self.redescribed, message["version"])
        known = self.messages.get(message["seq"])
        if known is None:
            known = {"version": 0} | (NOTHING if message["seq"] > self.message_count else UNKNOWN)
        if message["version"] > known["version"] or (message["version"] == known["version"] and "liked" in message):
            own = NOTHING if message.get("deleted_at") else {name: known[name] for name in UNKNOWN}
            self.messages[message["seq"]] = own | message

    def see_from(self, seq: int) -> None:
        """Take a new visible start."""
        self.visible_from = seq
        self.messages = {other: message for other, message in self.messages.items() if other >= seq}

    def merge_member(self, member: Json) -> None:
        """The greater row version wins."""
        known = self.members.get(member["user_id"])
        if known is None or member["version"] >= known["version"]:
            self.members[member["user_id"]] = dict(member)
        self.has_read(member["user_id"], member["last_read_seq"])

    def merge_members(self, members: list[Json], version: int) -> None:
        """Take all members as of a version. Newer rows stay; missing rows that are not newer go."""
        listed = {member["user_id"] for member in members}
        self.members = {
            user_id: known for user_id, known in self.members.items() if user_id in listed or known["version"] > version
        }
        for member in members:
            self.merge_member(member)

    def describe(self, description: str | None, version: int) -> None:
        """Take the description as of a version, unless the known one is newer."""
        if version >= self.described:
            self.description, self.described = description, version

    def merge_pinned(self, messages: list[Json], version: int) -> None:
        """Take all pinned messages as of a version. A known row up to it that is missing is not pinned."""
        listed = {message["seq"] for message in messages}
        for seq, known in self.messages.items():
            if seq not in listed and known["version"] <= version:
                self.messages[seq] = known | {"pinned_at": None}
        for message in messages:
            self.merge_message(message)

    def has_read(self, user_id: str, seq: int) -> None:
        """Read positions only grow, also when somebody is added again."""
        self.read[user_id] = max(seq, self.read.get(user_id, 0))

    def change(self, event: Json) -> None:
        """Apply a `messages_changed`. An older one is ignored, and one that does not follow is a gap."""
        if event["since"] > self.version:
            self.skipped = max(self.skipped, event["version"])
        elif event["version"] > self.version:
            self._merge(event)

    def _merge(self, event: Json) -> None:
        for message in [*event["messages"], *event.get("replied", ())]:
            self.merge_message(message)
        for member in event["members"]:
            self.merge_member(member)
        self.version, self.message_count = event["version"], event["message_count"]

    def newest(self) -> list[Json]:
        return [self.messages[seq] for seq in sorted(self.messages) if seq >= self.first][-PAGE:]

    def quoted(self) -> list[Json]:
        """What the newest messages quote beside them, as far as the user sees it."""
        newest = self.newest()
        seqs = {message.get("reply_to") for message in newest} - {message["seq"] for message in newest}
        return [self.messages[seq] for seq in sorted(self.messages) if seq in seqs]

    def pinned(self) -> list[Json]:
        """The pinned messages, in the window or beside it, the last pinned first."""
        pinned = [message for message in self.messages.values() if message.get("pinned_at")]
        return sorted(pinned, key=lambda row: (datetime.fromisoformat(row["pinned_at"]), row["seq"]), reverse=True)

    def people(self) -> set[str]:
        """The ids of all users in the window."""
        return {*self.members, *people_in([*self.newest(), *self.quoted(), *self.pinned()])}

    def state(self) -> Json:
        """The window as it is compared: its newest page with what that quotes, and its members."""
        return {
            "chat_id": self.chat_id,
            "version": self.version,
            "message_count": self.message_count,
            "description": self.description,
            "messages": [_unsigned(message) for message in self.newest()],
            # Whether the user likes them may be unknown.
            "quoted": [_unsigned(message) | UNKNOWN for message in self.quoted()],
            "pinned": [_unsigned(message) | UNKNOWN for message in self.pinned()],
            "members": {
                user_id: member | {"last_read_seq": self.read[user_id]}
                for user_id, member in self.members.items()
                if not member["removed_at"]
            },
        }


class ClientModel:
    """The state of one connection of a user."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.sync = ""
        self.entries: dict[str, Entry] = {}
        # By chat, also by one that isn't known, or not any more: the own part, and the newest own message.
        self.mines: dict[str, Json] = {}
        self.own_seqs: dict[str, int] = {}
        self.own_user_seqs: dict[str, int] = {}
        # As the last whole list had it.
        self.unread: Json | None = None
        # Chats that came without `mine`, or the other way round: they are not shown until `list_chats {ids}` or
        # `get_chat` has them.
        self.unknown: set[str] = set()
        # The versions of removals: anything at or below them is ignored.
        self.removals: dict[str, int] = {}
        self.window: Window | None = None
        self.people: dict[str, Json] = {}

    def read_list(self, pages: list[Json], changed_since: str = "") -> None:
        """Take all pages of a `list_chats`, whole or with `changed_since`; of a later list perhaps only some.

        Only a complete list of changes since the kept `sync` replaces it.
        """
        if changed_since == self.sync:
            self.sync = pages[0]["sync"]
        self.unread = pages[0].get("unread")
        for page in pages:
            self._take_list(page)

    def ids_to_ask(self) -> list[str]:
        """The next argument of `list_chats {ids}`."""
        return sorted(self.unknown)[:MOST_IDS]

    def read_asked(self, ids: list[str], page: Json) -> None:
        """Take the answer of `list_chats {ids}`: it lacks what isn't the user's, and its `sync` is of no use."""
        self._take_list(page)
        for chat_id in self.unknown & set(ids):
            self._forget(chat_id)

    def _take_list(self, page: Json) -> None:
        self._learn_users(page["users"])
        for removal in page["removed"]:
            self._remove(removal)
        for chat in page["items"]:
            self.read_chat(chat)

    def read_chat(self, chat: Json) -> None:
        """Take any ChatRead."""
        shared = {name: value for name, value in chat.items() if name != "mine"}
        assert chat["mine"]["unread_count"] == unread_count(shared, chat["mine"]["last_read_seq"])
        if self._keep_shared(shared):
            self.unknown.discard(chat["id"])
            self._keep_mine(chat["id"], chat["mine"])

    def open(self, screen: Json) -> None:
        """Take an OpenChat, the answer of `activate_chat`."""
        chat = screen["chat"]
        self.read_chat(chat)
        self._learn_users(screen["users"])
        if screen["page"]["version"] > self.removals.get(chat["id"], 0):
            version = screen["page"]["version"]
            self._open(chat["id"], version, screen["page"]).describe(screen.get("description"), version)
            self.read_members({"version": version, "items": screen["members"], "users": []})
            # Nodes of the former release know no pinned messages.
            self.read_pinned({"version": version, "items": screen.get("pinned", []), "users": []})

    def read_newest_page(self, page: Json) -> None:
        """Make the window anew from a newest page. Read members, pinned messages and the description after it."""
        assert self.window
        self._open(self.window.chat_id, self.window.opened, page)

    def _open(self, chat_id: str, opened: int, page: Json) -> Window:
        self._learn_users(page["users"])
        visible_from = self.mines[chat_id]["visible_from_seq"]
        # An empty page: all messages are before the visible start.
        seqs = [message["seq"] for message in page["items"]] or [visible_from - 1]
        read = self.window.read if self.window and self.window.chat_id == chat_id else {}
        self.window = Window(chat_id, opened, page["version"], seqs[-1], seqs[0], read=dict(read))
        self.window.see_from(visible_from)
        self.window.redescribed = page["version"]
        for message in [*page["items"], *page["replied"]]:
            self.window.merge_message(message)
        self._note_own(chat_id, page["items"])
        return self.window

    def read_page(self, page: Json) -> None:
        """Take another page of the open chat that ends where the window begins."""
        assert self.window
        self._learn_users(page["users"])
        for message in [*page["items"], *page["replied"]]:
            self.window.merge_message(message)
        self.window.first = min([self.window.first, *(message["seq"] for message in page["items"])])

    def read_message(self, message: Json) -> None:
        """Take the MessageRead of an ack."""
        self._note_own(message["chat_id"], [message])
        if self.window and self.window.chat_id == message["chat_id"]:
            self.window.merge_message(message)

    def read_changes(self, changes: Json) -> None:
        """Take a page of `list_changes` of the open chat that isn't a `reset`."""
        assert self.window and not changes["reset"]
        self._learn_users(changes["users"])
        self.window.change(changes)
        self._note_own(self.window.chat_id, changes["messages"])

    def read_members(self, answer: Json) -> None:
        """Take `list_members` of the open chat, with the read positions. It follows every `list_changes` and every
        newest page that replaces the window.
        """
        assert self.window
        self._learn_users(answer["users"])
        self.window.merge_members(answer["items"], answer["version"])

    @property
    def group_to_read(self) -> str | None:
        """The open group, if its description has to be read by `get_group`."""
        if self.window is None or self.window.redescribed <= self.window.described:
            return None
        entry = self.entries.get(self.window.chat_id)
        return self.window.chat_id if entry and entry.shared["type"] == "group" else None

    def read_group(self, group: Json) -> None:
        """Take the answer of `get_group`."""
        if self.window and self.window.chat_id == group["chat_id"]:
            self.window.describe(group["description"], group["version"])

    def read_pinned(self, answer: Json) -> None:
        """Take `list_pinned_messages` of the open chat. It follows every newest page that replaces the window."""
        assert self.window
        self._learn_users(answer["users"])
        self.window.merge_pinned(answer["items"], answer["version"])

    def receive(self, name: str, event: Json) -> None:
        """Apply one event. The owner of the connection handles `resync_required` and `session_revoked`."""
        if name not in PASSING:
            getattr(self, f"_{name}")(event)

    def _chats_changed(self, event: Json) -> None:
        self._learn_users(event["users"])
        for removal in event["removed"]:
            self._remove(removal)
        with_mine = {mine["chat_id"] for mine in event["mine"]}
        for shared in event["chats"]:
            chat_id, is_new = shared["id"], shared["id"] not in self.entries
            if not self._keep_shared(shared):
                continue
            if chat_id in with_mine:
                self.unknown.discard(chat_id)
            elif is_new:
                self.unknown.add(chat_id)
        for mine in event["mine"]:
            self._keep_mine(mine["chat_id"], {name: value for name, value in mine.items() if name != "chat_id"})
            if mine["chat_id"] not in self.entries:
                self.unknown.add(mine["chat_id"])

    def _messages_changed(self, event: Json) -> None:
        self._learn_users(event["users"])
        self._note_own(event["chat_id"], event["messages"])
        if self.window and self.window.chat_id == event["chat_id"]:
            self.window.change(event)
            for message in event["messages"]:
                if message["sender_id"] != self.user_id:
                    self._others_read(event["chat_id"], message["seq"])

    def _read_changed(self, event: Json) -> None:
        if self.window and self.window.chat_id == event["chat_id"]:
            self.window.has_read(event["user_id"], event["last_read_seq"])
        if event["user_id"] != self.user_id:
            self._others_read(event["chat_id"], event["last_read_seq"])

    def _users_changed(self, event: Json) -> None:
        self._learn_users(event["users"])

    def _keep_shared(self, shared: Json) -> bool:
        """Replace the shared part unless the new one is older. False for a chat that the user was removed from."""
        chat_id = shared["id"]
        if shared["version"] <= self.removals.get(chat_id, 0):
            return False
        shared = shared | {"last_message": shared["last_message"] and _current(shared["last_message"])}
        if chat_id not in self.entries:
            own_seqs = self.own_seqs.get(chat_id, 0), self.own_user_seqs.get(chat_id, 0)
            self.entries[chat_id] = Entry(shared, self.mines.get(chat_id), *own_seqs)
        entry = self.entries[chat_id]
        if shared["version"] >= entry.shared["version"]:
            entry.shared = shared
        self._note_own(chat_id, [shared["last_message"]] if shared["last_message"] else [])
        return True

    def _keep_mine(self, chat_id: str, mine: Json) -> None:
        """Replace the own part unless the new one is older, also of a chat that isn't known."""
        known = self.mines.get(chat_id)
        if known is None or mine["version"] >= known["version"]:
            self.mines[chat_id] = dict(mine)
            self._learn_users([mine["peer"]] if mine["peer"] else [])
            if chat_id in self.entries:
                self.entries[chat_id].mine = self.mines[chat_id]
            if self.window and self.window.chat_id == chat_id:
                self.window.see_from(mine["visible_from_seq"])

    def _note_own(self, chat_id: str, messages: Iterable[Json]) -> None:
        """The service has moved the read position to each of the user's messages, which took the mark and the draft."""
        own = [message for message in messages if message["sender_id"] == self.user_id]
        for seqs, kinds in ((self.own_seqs, own), (self.own_user_seqs, [m for m in own if m["type"] != "system"])):
            seqs[chat_id] = max([seqs.get(chat_id, 0), *(message["seq"] for message in kinds)])
        if chat_id in self.entries:
            entry = self.entries[chat_id]
            entry.own_seq, entry.own_user_seq = self.own_seqs[chat_id], self.own_user_seqs[chat_id]

    def _others_read(self, chat_id: str, seq: int) -> None:
        if chat_id in self.entries:
            self.entries[chat_id].others_read(seq)

    def _remove(self, removal: Json) -> None:
        chat_id, version = removal["chat_id"], removal["version"]
        self.removals[chat_id] = max(version, self.removals.get(chat_id, 0))
        if chat_id in self.entries and self.entries[chat_id].shared["version"] <= version:
            self._forget(chat_id)
        if self.window and self.window.chat_id == chat_id and version > self.window.opened:
            self.window = None

    def _forget(self, chat_id: str) -> None:
        self.entries.pop(chat_id, None)
        self.unknown.discard(chat_id)

    def _learn_users(self, users: list[Json]) -> None:
        self.people |= {user["id"]: user for user in users}

    @property
    def open_chat_id(self) -> str | None:
        return self.window.chat_id if self.window else None

    def shown_entries(self) -> list[Entry]:
        """The chat list in its order."""
        known = [entry for chat_id, entry in self.entries.items() if chat_id not in self.unknown]
        return sorted((entry for entry in known if not entry.is_out_of_sight), key=Entry.place)

    def count_unread(self) -> Json:
        """What `unread` of a new list has: of the chats that are unread or marked, and neither muted nor archived."""
        now = datetime.now(UTC)
        shown = [entry.state()["mine"] for entry in self.shown_entries()]
        loud = [mine for mine in shown if not mine["archived_at"] and not _is_after(mine["muted_until"], now)]
        counted = [mine["unread_count"] for mine in loud if mine["unread_count"] or mine["marked_unread"]]
        return {"chats": len(counted), "messages": sum(counted)}

    def list_state(self) -> Json:
        """The chat list as it is compared, in its order."""
        return {entry.shared["id"]: entry.state() for entry in self.shown_entries()}

    def window_state(self) -> Json | None:
        return self.window.state() if self.window else None

    def unknown_users(self) -> set[str]:
        """Users in the window, and in the list beside the newest messages, that no answer or event has described."""
        newest = [entry.shared["last_message"] for entry in self.shown_entries() if entry.shared["type"] == "group"]
        people = {*people_in(message for message in newest if message)}
        if self.window:
            people |= self.window.people()
        return people - {self.user_id, *self.people}


def _is_after(time: str | None, now: datetime) -> bool:
    return time is not None and datetime.fromisoformat(time) > now


def people_in(messages: Iterable[Json]) -> Iterator[str]:
    """The ids of the users that these messages refer to."""
    for message in messages:
        yield message["sender_id"]
        if message["type"] == "system":
            yield from message["system"]["user_ids"]
        if message.get("forwarded"):
            yield message["forwarded"]["author_id"]


def _current(message: Json) -> Json:
    """A message or preview as this version writes it. Earlier ones have one `payload` for all types, or lack fields."""
    if "chat_id" in message:
        message = {"extra": None, "reactions": [], "pinned_at": None, "forwarded": None} | message
    if "payload" not in message:
        return message
    names = PAYLOADS if "chat_id" in message else ("system",)
    payloads = {name: message["payload"] if message["type"] == name else None for name in names}
    return {name: value for name, value in message.items() if name != "payload"} | payloads


def _unsigned(message: Json) -> Json:
    """URLs of files are signed anew in each answer."""
    if message["attachment"] is None:
        return message
    preview = bool(message["attachment"]["preview_url"])
    return message | {"attachment": message["attachment"] | {"url": None, "preview_url": preview}}
