"""What a run records: JSON lines, one fact each, in the order of one clock.

`k` is the kind of a line and `t` the seconds since the run began. Answers and events are reduced to what is judged; a
message becomes a Row. Nothing is judged here.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import orjson

Json = dict[str, Any]


class Row(NamedTuple):
    """A message as everybody sees it.

    `content`: a text, [event, user_ids] of a system message with what it changed in a group, or the other fields.
    """

    seq: int
    version: int
    sender: str
    client_id: str | None
    type: str
    content: Any
    like_count: int
    deleted: int
    # As "emoji count" of each kind, and the first author of a forwarded message.
    reactions: str = ""
    pinned: int = 0
    author: str | None = None


class Recorder:
    """Writes the lines of a run to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb", buffering=1 << 20)
        self._began = monotonic()
        self._operations = 0
        self._pages: set[str] = set()

    @property
    def now(self) -> float:
        return round(monotonic() - self._began, 4)

    def write(self, kind: str, **fields: Any) -> None:
        line = {"k": kind, "t": self.now, **fields}
        self._file.write(orjson.dumps(line, default=tuple, option=orjson.OPT_APPEND_NEWLINE))

    def invoke(self, name: str, args: Json, **by: Any) -> int:
        """Record that an operation begins. Returns its number, for `end`."""
        self._operations += 1
        self.write("invoke", op=self._operations, name=name, args=args, **by)
        return self._operations

    def page(self, rows: list[Row]) -> str:
        """Record a page of the history, once for each content. Returns its id."""
        content = orjson.dumps(rows, default=tuple)
        page_id = sha256(content).hexdigest()[:16]
        if page_id not in self._pages:
            self._pages.add(page_id)
            self.write("page", id=page_id, rows=orjson.Fragment(content))
        return page_id

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> Iterator[Json]:
    """The lines of a file; a last one that was cut off by a kill is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield orjson.loads(line)


def row(message: Json) -> Row:
    """A MessageRead or MessageShared."""
    return Row(
        message["seq"],
        message["version"],
        message["sender_id"],
        message["client_id"],
        message["type"],
        None if message["deleted_at"] else content(message),
        message["like_count"],
        int(bool(message["deleted_at"])),
        " ".join(f"{each['emoji']} {each['count']}" for each in message.get("reactions", ())),
        int(bool(message.get("pinned_at"))),
        message["forwarded"]["author_id"] if message.get("forwarded") else None,
    )


def content(message: Json) -> Any:
    """The content of a message, the same for the input of a send and for its answer."""
    if message["type"] == "forward":
        return {name: message[name] for name in ("from_chat_id", "from_seq")}
    payload = message.get("payload") or {}
    system = message.get("system") or (payload if message["type"] == "system" else None)
    if system:
        changed = [system["fields"], system["title"]] if system.get("fields") else []
        return [system["event"], system["user_ids"], *changed]
    place = message.get("location") or message.get("contact") or payload or message
    found = {name: place.get(name) for name in ("latitude", "longitude", "name", "phone")}
    found["extra"] = message.get("extra")
    found |= {"text": message.get("text"), "reply_to": message.get("reply_to")}
    found["file"] = message.get("attachment_id") or (message.get("attachment") or {}).get("id")
    kept = {name: value for name, value in found.items() if value is not None}
    return kept["text"] if kept.keys() == {"text"} else kept


def rows(messages: Iterable[Json]) -> list[Row]:
    return [row(message) for message in messages]


def answer(name: str, data: Any) -> Json:
    """What is kept of a success."""
    if not isinstance(data, dict):
        return {}
    if "seq" in data and "sender_id" in data:
        own = {name: data.get(name) for name in ("liked", "reacted")}
        return {"chat": data["chat_id"], "row": row(data), **own}
    if "chat" in data and "page" in data:
        page = data["page"]
        return _chat(data["chat"]) | {"version": page["version"]} | _page(page)
    if "since" in data:
        kept = {name: data[name] for name in ("since", "version", "message_count", "has_more", "reset")}
        return kept | _changes(data)
    if "has_before" in data:
        return {"version": data["version"]} | _page(data)
    if "chats" in data:
        return {"found": [[message["chat_id"], row(message)] for message in data["items"]]}
    if "sync" in data:
        return {"sync": data["sync"], "chats": [_entry(chat) for chat in data["items"]], "removed": _removed(data)}
    if "mine" in data:
        return _chat(data)
    return {name: data[name] for name in ("id", "is_verified", "expires_in") if name in data}


def event(name: str, data: Json) -> Json:
    """What is kept of an event."""
    match name:
        case "messages_changed":
            kept = {"chat": data["chat_id"], "since": data["since"], "version": data["version"]}
            return kept | {"count": data["message_count"]} | _changes(data)
        case "chats_changed":
            mine = [[own["chat_id"], own["version"], own["last_read_seq"]] for own in data["mine"]]
            return {"chats": [_entry(chat) for chat in data["chats"]], "mine": mine, "removed": _removed(data)}
        case "read_changed":
            return {"chat": data["chat_id"], "user": data["user_id"], "seq": data["last_read_seq"]}
        case "typing_changed":
            return {"chat": data["chat_id"], "user": data["user_id"]}
        case "presence_changed":
            return {"user": data["user_id"]}
        case "users_changed":
            return {"users": [user["id"] for user in data["users"]]}
        case "ready":
            return {"sync": data["sync"], "active": data["active_chat_id"]}
    return {key: data[key] for key in ("reason", "code") if key in data}


def _page(data: Json) -> Json:
    return {"rows": rows(data["items"]), "replied": rows(data["replied"])}


def _changes(data: Json) -> Json:
    """Nodes of an earlier version have no `replied`."""
    members = [_member(member) for member in data["members"]]
    return {"rows": rows(data["messages"]), "replied": rows(data.get("replied", ())), "members": members}


def _chat(chat: Json) -> Json:
    mine = chat["mine"]
    own = {"mine": mine["version"], "read": mine["last_read_seq"], "visible_from": mine["visible_from_seq"]}
    return {"chat": chat["id"], "version": chat["version"], "count": chat["message_count"], "type": chat["type"], **own}


def _entry(chat: Json) -> list[Any]:
    newest = chat["last_message"]
    return [chat["id"], chat["version"], chat["message_count"], chat["member_count"], newest["seq"] if newest else 0]


def _member(member: Json) -> list[Any]:
    return [member["user_id"], member["version"], int(bool(member["removed_at"])), member["last_read_seq"]]


def _removed(data: Json) -> list[Any]:
    return [[removal["chat_id"], removal["version"], removal["reason"]] for removal in data["removed"]]
