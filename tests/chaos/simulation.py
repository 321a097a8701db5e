"""A chat service that keeps its promises, in memory: what the generated histories come from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from tests.chaos.history import Json, Row
from tests.chaos.simulated_marks import Marks, Refused


@dataclass(eq=False)
class Connection:
    id: str
    user: str
    node: str
    active: str | None = None
    is_open: bool = True
    is_deaf: bool = False
    busy_until: float = 0.0
    arrives_at: float = 0.0


@dataclass
class Chat:
    """A chat; `members` have the first seq that they may see."""

    id: str
    type: str
    creator: str
    members: dict[str, int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    version: int = 1
    likes: dict[int, set[str]] = field(default_factory=dict)
    # By seq: each reaction as "user emoji".
    reactions: dict[int, set[str]] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    sent: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def entry(self) -> list[Any]:
        return [self.id, self.version, len(self.rows), len(self.members), len(self.rows)]

    def positions(self) -> list[Any]:
        return [[user, self.read.get(user, 0)] for user in sorted(self.members)]

    def put(self, sender: str, client_id: str | None, type: str, content: Any, author: str | None = None) -> Row:
        row = Row(len(self.rows) + 1, self.version, sender, client_id, type, content, 0, 0, author=author)
        self.rows.append(row)
        return row

    def change(self, seq: int, **fields: Any) -> Row:
        self.version += 1
        self.rows[seq - 1] = self.rows[seq - 1]._replace(version=self.version, **fields)
        return self.rows[seq - 1]


class Service(Marks):
    """Applies one operation after the other, and hands out the events of each."""

    def __init__(self, users: list[str], deliver: Callable[[Connection, str, Json], None]) -> None:
        self.users = users
        self.deliver = deliver
        self.chats: dict[str, Chat] = {}
        self.connections: list[Connection] = []
        self._made = 0

    def connect(self, id: str, user: str, node: str, now: float) -> Connection:
        conn = Connection(id, user, node, busy_until=now, arrives_at=now)
        self.connections.append(conn)
        return conn

    def catch_up(self, conn: Connection) -> None:
        """A new connection has nothing open."""
        conn.active = None

    def close(self, conn: Connection) -> None:
        conn.is_open = False
        self.connections.remove(conn)

    def apply(self, user: str, name: str, args: Json, conn: Connection | None) -> Json:
        """What an operation answers. Raises Refused."""
        if name in ("create_group", "open_private_chat", "update_me", "search_messages"):
            return {"data": getattr(self, f"_{name}")(user, args)}
        chat = self.chats.get(args["chat_id"])
        if chat is None or user not in chat.members:
            raise Refused(404, "chat_not_found")
        if name == "activate_chat":
            if conn and conn.is_open:
                conn.active = chat.id
            return {"data": self._screen(user, chat)}
        answer: Json = getattr(self, f"_{name}")(user, chat, args)
        return answer

    def _create_group(self, user: str, args: Json) -> Json:
        chat = self._new("group", user, [user, *args["member_ids"]])
        self._tell(chat, [chat.put(user, None, "system", ["group_created", args["member_ids"]])], since=0)
        return self._chat(user, chat)

    def _open_private_chat(self, user: str, args: Json) -> Json:
        pair = {user, args["user_id"]}
        found = [chat for chat in self.chats.values() if chat.type == "private" and chat.members.keys() == pair]
        return self._chat(user, found[0] if found else self._new("private", user, sorted(pair)))

    def _new(self, type: str, user: str, members: list[str]) -> Chat:
        self._made += 1
        chat = Chat(f"chat{self._made}", type, user, dict.fromkeys(members, 1))
        self.chats[chat.id] = chat
        return chat

    def _update_me(self, user: str, args: Json) -> Json:
        for conn in self.connections:
            chat = self.chats.get(conn.active or "")
            is_open = chat is not None and {user, conn.user} <= chat.members.keys()
            is_peer = any(
                chat.type == "private" and {user, conn.user} == chat.members.keys() for chat in self.chats.values()
            )
            if conn.user != user and (is_open or is_peer):
                self.deliver(conn, "users_changed", {"users": [user]})
        return {}

    def _search_messages(self, user: str, args: Json) -> Json:
        mine = [chat for chat in self.chats.values() if user in chat.members]
        seen = [(chat.id, row) for chat in mine for row in chat.rows[chat.members[user] - 1 :]]
        texts = [[chat_id, list(row)] for chat_id, row in seen if row.type == "text" and not row.deleted]
        return {"found": texts[-100:]}

    def _send_message(self, user: str, chat: Chat, args: Json) -> Json:
        key = user, args["client_id"]
        if key in chat.sent:
            seq, content = chat.sent[key]
            if content != args["content"]:
                raise Refused(409, "client_id_reused")
            return {"status": 200, "data": self._message(chat, chat.rows[seq - 1])}
        content, author = args["content"], None
        if isinstance(content, dict):
            source = self.chats.get(content["from_chat_id"])
            if source is None or user not in source.members:
                raise Refused(404, "message_not_found")
            original = self._row(user, source, {"seq": content["from_seq"]})
            if original.deleted or original.type == "system":
                raise Refused(409, "message_deleted")
            content, author = original.content, original.author or original.sender
        chat.version += 1
        row = chat.put(user, args["client_id"], "text", content, author)
        chat.sent[key] = row.seq, args["content"]
        chat.read[user] = row.seq
        self._tell(chat, [row])
        return {"status": 201, "data": self._message(chat, row)}

    def _edit_message(self, user: str, chat: Chat, args: Json) -> Json:
        row = self._row(user, chat, args)
        if row.sender != user or row.type == "system" or row.author:
            raise Refused(403, "not_author")
        if row.deleted:
            raise Refused(409, "message_deleted")
        return self._changed(chat, args["seq"], content=args["text"])

    def _delete_message(self, user: str, chat: Chat, args: Json) -> Json:
        if self._row(user, chat, args).sender != user:
            raise Refused(403, "not_author")
        for marks in (chat.likes, chat.reactions):
            marks.pop(args["seq"], None)
        cleared = {"like_count": 0, "reactions": "", "pinned": 0, "author": None}
        self._changed(chat, args["seq"], content=None, deleted=1, **cleared)
        return {"status": 204}

    def _changed(self, chat: Chat, seq: int, **fields: Any) -> Json:
        row = chat.change(seq, **fields)
        self._tell(chat, [row])
        return {"data": self._message(chat, row)}

    def _row(self, user: str, chat: Chat, args: Json) -> Row:
        if not chat.members[user] <= args["seq"] <= len(chat.rows):
            raise Refused(404, "message_not_found")
        return chat.rows[args["seq"] - 1]

    def _mark_read(self, user: str, chat: Chat, args: Json) -> Json:
        position = min(args["seq"], len(chat.rows))
        if position > chat.read.get(user, 0):
            chat.read[user] = position
            for conn in self._passing(user, chat):
                self.deliver(conn, "read_changed", {"chat": chat.id, "user": user, "seq": position})
        return {"data": self._chat(user, chat)}

    def _set_typing(self, user: str, chat: Chat, args: Json) -> Json:
        for conn in self._passing(user, chat):
            if conn.user != user:
                self.deliver(conn, "typing_changed", {"chat": chat.id, "user": user})
        return {"status": 204}

    def _add_members(self, user: str, chat: Chat, args: Json) -> Json:
        joining = [one for one in args["user_ids"] if one not in chat.members]
        if joining:
            event = "became_group" if chat.type == "private" else "members_added"
            if chat.type == "private":
                chat.type, chat.creator = "group", user
            first = chat.members[user] if args["share_history"] else len(chat.rows) + 1
            chat.version += 1
            chat.members |= dict.fromkeys(joining, first)
            row = chat.put(user, None, "system", [event, joining])
            chat.read |= dict.fromkeys((user, *joining), row.seq)
            self._tell(chat, [row], members=[[one, chat.version, 0, row.seq] for one in joining])
        return {"data": self._chat(user, chat)}

    def _remove_member(self, user: str, chat: Chat, args: Json) -> Json:
        if chat.type != "group":
            raise Refused(409, "not_a_group")
        if chat.creator != user:
            raise Refused(403, "not_creator")
        if args["user_id"] == user:
            raise Refused(409, "creator_cannot_leave")
        if args["user_id"] not in chat.members:
            raise Refused(404, "member_not_found")
        return self._part(chat, user, args["user_id"], ["member_removed", [args["user_id"]]])

    def _set_creator(self, user: str, chat: Chat, args: Json) -> Json:
        if chat.type != "group" or chat.creator != user:
            raise Refused(403, "not_creator")
        if args["user_id"] not in chat.members:
            raise Refused(404, "member_not_found")
        chat.version += 1
        chat.creator = args["user_id"]
        row = chat.put(user, None, "system", ["creator_changed", [chat.creator]])
        chat.read[user] = row.seq
        self._tell(chat, [row], members=[[one, chat.version, 0, chat.read.get(one, 0)] for one in (user, chat.creator)])
        return {"data": self._chat(user, chat)}

    def _leave_chat(self, user: str, chat: Chat, args: Json) -> Json:
        if chat.type != "group" or chat.creator == user:
            raise Refused(409, "creator_cannot_leave")
        return self._part(chat, user, user, ["member_left", []])

    def _part(self, chat: Chat, actor: str, gone: str, content: Any) -> Json:
        chat.version += 1
        del chat.members[gone]
        row = chat.put(actor, None, "system", content)
        if actor in chat.members:
            chat.read[actor] = row.seq
        self._remove([gone], chat, "left" if actor == gone else "removed")
        self._tell(chat, [row], members=[[gone, chat.version, 1, 0]])
        return {"status": 204}

    def _delete_chat(self, user: str, chat: Chat, args: Json) -> Json:
        if chat.type != "group" or chat.creator != user:
            raise Refused(403, "not_creator")
        chat.version += 1
        self._remove(list(chat.members), chat, "deleted")
        del self.chats[chat.id]
        return {"status": 204}

    def _remove(self, users: list[str], chat: Chat, reason: str) -> None:
        for conn in self.connections:
            if conn.user in users:
                conn.active = None if conn.active == chat.id else conn.active
                data = {"chats": [], "mine": [], "removed": [[chat.id, chat.version, reason]]}
                self._send(conn, "chats_changed", data)

    def _list_changes(self, user: str, chat: Chat, args: Json) -> Json:
        since, first = args["since"], chat.members[user]
        rows = sorted(
            (row for row in chat.rows if row.version > since and row.seq >= first), key=lambda row: row.version
        )
        page = {"since": since, "version": chat.version, "message_count": len(chat.rows), "has_more": False}
        return {"data": page | {"reset": False, "rows": [list(row) for row in rows], "members": []}}

    def _list_messages(self, user: str, chat: Chat, args: Json) -> Json:
        rows = chat.rows[max(chat.members[user] - 1, len(chat.rows) - 50) :]
        return {"data": {"version": chat.version, "rows": [list(row) for row in rows]}}

    def _screen(self, user: str, chat: Chat) -> Json:
        page: Json = self._list_messages(user, chat, {})["data"]
        return self._chat(user, chat) | page

    def _chat(self, user: str, chat: Chat) -> Json:
        own = {"mine": 1, "read": chat.read.get(user, 0), "visible_from": chat.members.get(user, inf)}
        return {"chat": chat.id, "version": chat.version, "count": len(chat.rows), "type": chat.type, **own}

    def _message(self, chat: Chat, row: Row) -> Json:
        return {"chat": chat.id, "row": list(row), "liked": None}

    def _open(self, chat: Chat) -> list[Connection]:
        return [conn for conn in self.connections if conn.active == chat.id and conn.user in chat.members]

    def _passing(self, user: str, chat: Chat) -> list[Connection]:
        """The connections that get who reads and types: in a private chat all of the peer."""
        peers = chat.members.keys() - {user} if chat.type == "private" else set()
        elsewhere = [conn for conn in self.connections if conn.user in peers and conn.active != chat.id]
        return [*self._open(chat), *elsewhere]

    def _tell(self, chat: Chat, rows: list[Row], *, members: Any = (), since: int | None = None) -> None:
        about = {"chat": chat.id, "version": chat.version, "count": len(chat.rows), "members": list(members)}
        about["since"] = chat.version - 1 if since is None else since
        for conn in self._open(chat):
            seen = [list(row) for row in rows if row.seq >= chat.members[conn.user]]
            self._send(conn, "messages_changed", about | {"rows": seen})
        for conn in self.connections:
            if conn.user in chat.members:
                self._send(conn, "chats_changed", {"chats": [chat.entry()], "mine": [], "removed": []})

    def _send(self, conn: Connection, name: str, data: Json) -> None:
        if not conn.is_deaf:
            self.deliver(conn, name, data)
