"""A reference client: it follows the rules of DESIGN §5 "Catching up" and depends on nothing else of the service.

It takes answers and the events of one connection in their order, and keeps a chat list, one open window and a
directory of users. It opens no connection and sends nothing.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

PAGE = 50
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
PAYLOADS = ("location", "contact", "system")
# Events without anything that a snapshot has.
PASSING = {"ready", "presence_changed", "typing_changed"}


@dataclass
class Entry:
    """A chat of the list: the shared part and the user's own part."""

    shared: Json
    mine: Json | None = None

    def keep_mine(self, mine: Json) -> None:
        """Replace the own part unless the new one is older."""
        if self.mine is None or mine["version"] >= self.mine["version"]:
            self.mine = dict(mine)

    def read_own_message(self, user_id: str) -> None:
        """Move the read position to the newest own message: no other event has that position."""
        newest = self.shared["last_message"]
        if self.mine and newest and newest["sender_id"] == user_id and newest["seq"] > self.mine["last_read_seq"]:
            self.mine |= {"last_read_seq": newest["seq"], "version": self.mine["version"] + 1}

    def others_read(self, seq: int) -> None:
        if self.mine:
            self.mine["others_read_seq"] = max(self.mine["others_read_seq"], seq)

    def state(self) -> Json:
        """The entry as it is compared. Clients compute `unread_count` themselves."""
        shared = {name: value for name, value in self.shared.items() if name != "version"}
        if self.mine is None:
            return shared | {"mine": None}
        mine = {name: value for name, value in self.mine.items() if name != "others_read_seq"}
        return shared | {"mine": mine | {"unread_count": shared["message_count"] - mine["last_read_seq"]}}

    def place(self) -> tuple[float, float, str]:
        """The sort key in the list: pinned first, then the latest updated, then by id."""
        pinned_at = (self.mine or {}).get("pinned_at")
        pinned = datetime.fromisoformat(pinned_at) if pinned_at else NEVER
        updated = datetime.fromisoformat(self.shared["updated_at"])
        return -pinned.timestamp(), -updated.timestamp(), self.shared["id"]


@dataclass
class Window:
    """An open chat. Only `messages_changed` and `changes` move its version; everything else merges rows.

    `opened`: the version at which the chat was opened. It stays when a newest page replaces the window, since for the
    service that opens nothing anew.
    """

    chat_id: str
    opened: int
    version: int
    message_count: int
    messages: dict[int, Json] = field(default_factory=dict)
    members: dict[str, Json] = field(default_factory=dict)
    # The version of the newest event that was skipped.
    skipped: int = 0

    @property
    def has_gap(self) -> bool:
        """An event was skipped, so `list_changes` has to be called."""
        return self.skipped > self.version

    def merge_message(self, message: Json) -> None:
        """The greater row version wins. A winner without `liked` keeps the known one."""
        message = _current(message)
        known = self.messages.get(message["seq"]) or {"version": 0, "liked": False}
        if message["version"] > known["version"] or (message["version"] == known["version"] and "liked" in message):
            self.messages[message["seq"]] = {"liked": known["liked"]} | message

    def merge_member(self, member: Json) -> None:
        """The greater row version wins. Between two joinings a read position only grows."""
        known = self.members.get(member["user_id"])
        if known and member["version"] < known["version"]:
            return
        self.members[member["user_id"]] = dict(member)
        if known and known["joined_at"] == member["joined_at"]:
            self.has_read(member["user_id"], known["last_read_seq"])

    def merge_members(self, members: list[Json], version: int) -> None:
        """Take all members as of a version. Newer rows stay; missing rows that are not newer go."""
        listed = {member["user_id"] for member in members}
        self.members = {
            user_id: known for user_id, known in self.members.items() if user_id in listed or known["version"] > version
        }
        for member in members:
            self.merge_member(member)

    def has_read(self, user_id: str, seq: int) -> None:
        member = self.members.get(user_id)
        if member:
            member["last_read_seq"] = max(member["last_read_seq"], seq)

    def change(self, event: Json) -> None:
        """Apply a `messages_changed`. An older one is ignored, and one that does not follow is a gap."""
        if event["since"] > self.version:
            self.skipped = max(self.skipped, event["version"])
        elif event["version"] > self.version:
            self._merge(event)

    def _merge(self, event: Json) -> None:
        for message in event["messages"]:
            self.merge_message(message)
            sender = self.members.get(message["sender_id"])
            # A row newer than the event is of a later joining, whose read position starts anew.
            if message["seq"] > self.message_count and sender and sender["version"] <= event["version"]:
                self.has_read(message["sender_id"], message["seq"])
        for member in event["members"]:
            self.merge_member(member)
        self.version, self.message_count = event["version"], event["message_count"]

    def people(self) -> set[str]:
        """The ids of all users in the window."""
        people = set(self.members)
        for message in self.messages.values():
            people.add(message["sender_id"])
            if message["type"] == "system":
                people.update(message["system"]["user_ids"])
        return people

    def state(self) -> Json:
        """The window as it is compared: its newest page and its members."""
        return {
            "chat_id": self.chat_id,
            "version": self.version,
            "message_count": self.message_count,
            "messages": [_unsigned(self.messages[seq]) for seq in sorted(self.messages)[-PAGE:]],
            "members": {user_id: member for user_id, member in self.members.items() if not member["removed_at"]},
        }


class ClientModel:
    """The state of one connection of a user."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.sync = ""
        self.entries: dict[str, Entry] = {}
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
        for page in pages:
            self._learn_users(page["users"])
            for removal in page["removed"]:
                self._remove(removal)
            for chat in page["items"]:
                self.read_chat(chat)

    def read_chat(self, chat: Json) -> None:
        """Take any ChatRead."""
        shared = {name: value for name, value in chat.items() if name != "mine"}
        assert chat["mine"]["unread_count"] == chat["message_count"] - chat["mine"]["last_read_seq"]
        if self._keep_shared(shared):
            self._keep_mine(chat["id"], chat["mine"])

    def open(self, screen: Json) -> None:
        """Take an OpenChat, the answer of `activate_chat`."""
        chat = screen["chat"]
        self.read_chat(chat)
        self._learn_users(screen["users"])
        if screen["page"]["version"] > self.removals.get(chat["id"], 0):
            version = screen["page"]["version"]
            self._open(chat["id"], version, screen["page"])
            self.read_members({"version": version, "items": screen["members"], "users": []})

    def read_newest_page(self, page: Json) -> None:
        """Make the window anew from a newest page. Its members have to be read afterwards."""
        assert self.window
        self._open(self.window.chat_id, self.window.opened, page)

    def _open(self, chat_id: str, opened: int, page: Json) -> None:
        self._learn_users(page["users"])
        newest = page["items"][-1]["seq"] if page["items"] else 0
        self.window = Window(chat_id, opened, page["version"], newest)
        for message in [*page["items"], *page["replied"]]:
            self.window.merge_message(message)

    def read_message(self, message: Json) -> None:
        """Take the MessageRead of an ack."""
        if self.window and self.window.chat_id == message["chat_id"]:
            self.window.merge_message(message)

    def read_changes(self, changes: Json) -> None:
        """Take a page of `list_changes` of the open chat that isn't a `reset`."""
        assert self.window and not changes["reset"]
        self._learn_users(changes["users"])
        self.window.change(changes)

    def read_members(self, answer: Json) -> None:
        """Take `list_members` of the open chat, with the read positions. It follows every `list_changes` and every
        newest page that replaces the window.
        """
        assert self.window
        self._learn_users(answer["users"])
        self.window.merge_members(answer["items"], answer["version"])

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
            if self._keep_shared(shared) and shared["id"] not in with_mine:
                self.entries[shared["id"]].read_own_message(self.user_id)
        for mine in event["mine"]:
            self._keep_mine(mine["chat_id"], {name: value for name, value in mine.items() if name != "chat_id"})

    def _messages_changed(self, event: Json) -> None:
        self._learn_users(event["users"])
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
        if shared["version"] <= self.removals.get(shared["id"], 0):
            return False
        shared = shared | {"last_message": shared["last_message"] and _current(shared["last_message"])}
        entry = self.entries.setdefault(shared["id"], Entry(shared))
        if shared["version"] >= entry.shared["version"]:
            entry.shared = shared
        return True

    def _keep_mine(self, chat_id: str, mine: Json) -> None:
        if chat_id in self.entries:
            self.entries[chat_id].keep_mine(mine)
            self._learn_users([mine["peer"]] if mine["peer"] else [])

    def _others_read(self, chat_id: str, seq: int) -> None:
        if chat_id in self.entries:
            self.entries[chat_id].others_read(seq)

    def _remove(self, removal: Json) -> None:
        chat_id, version = removal["chat_id"], removal["version"]
        self.removals[chat_id] = max(version, self.removals.get(chat_id, 0))
        if chat_id in self.entries and self.entries[chat_id].shared["version"] <= version:
            del self.entries[chat_id]
        if self.window and self.window.chat_id == chat_id and version > self.window.opened:
            self.window = None

    def _learn_users(self, users: list[Json]) -> None:
        self.people |= {user["id"]: user for user in users}

    @property
    def open_chat_id(self) -> str | None:
        return self.window.chat_id if self.window else None

    def list_state(self) -> Json:
        """The chat list as it is compared, in its order."""
        ordered = sorted(self.entries.values(), key=Entry.place)
        return {entry.shared["id"]: entry.state() for entry in ordered}

    def window_state(self) -> Json | None:
        return self.window.state() if self.window else None

    def unknown_users(self) -> set[str]:
        """Users in the window that no answer or event has described."""
        return self.window.people() - set(self.people) if self.window else set()


def _current(message: Json) -> Json:
    """A message or preview as this version writes it. Nodes of the version before have one `payload` for all types."""
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
