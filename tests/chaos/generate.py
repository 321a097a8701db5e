"""Histories of a service that keeps its promises, simulated: the checker must call every one of them valid.

Clients act at random and at once, answers get lost and sends are repeated, members come and go, nodes lose events and
ask for a resync. A seed gives the same history each time.
"""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any

from tests.chaos.history import Json, Row
from tests.chaos.simulation import Chat, Connection, Refused, Service

WEIGHTS = {
    "send_message": 40,
    "edit_message": 6,
    "delete_message": 2,
    "like_message": 8,
    "unlike_message": 4,
    **dict.fromkeys(("react", "unreact", "pin_message", "unpin_message"), 4),
    "mark_read": 6,
    "add_members": 6,
    "remove_member": 4,
    "leave_chat": 2,
    "set_creator": 2,
    "open_private_chat": 3,
    "create_group": 1,
    "delete_chat": 0.5,
    "list_changes": 6,
    "list_messages": 4,
    "search_messages": 2,
    "activate_chat": 12,
    "set_typing": 3,
    "update_me": 2,
    "reconnect": 3,
    "lose_bus": 2,
    "renew_session": 1,
}
ON_MESSAGE = {"react", "unreact", *(name for name in WEIGHTS if name.endswith("_message"))} - {"send_message"}
NODES = ("a", "b")


class Simulation:
    """One run. Time is virtual: `later` calls something when it has come."""

    def __init__(self, seed: int, operations: int, users: int = 8) -> None:
        self.random = Random(seed)
        self.users = [f"u{number}" for number in range(users)]
        self.records: list[Json] = []
        self.now = 0.0
        self._numbers, self._ids = count(1), count(1)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._operations = operations
        self.service = Service(self.users, self.deliver)
        self.sessions = dict.fromkeys(self.users, "")
        self.passwords = dict.fromkeys(self.users, "first")
        self.used: dict[tuple[str, str], list[str]] = {}

    def run(self) -> list[Json]:
        self.record("run", seed=0, nodes=NODES, users=self.users, faults=[], operations=["send_message", "login"])
        for user in self.users:
            self.log_in(user)
            self.connect(user)
        for number in range(self._operations):
            self.later(0.02 * number + self.random.random(), self.act)
        self._drain()
        self._finish()
        self.record("end")
        return self.records

    def record(self, kind: str, **fields: Any) -> None:
        self.records.append({"k": kind, "t": round(self.now, 4), **fields})

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        heappush(self._heap, (self.now + seconds, next(self._numbers), act))

    def _drain(self) -> None:
        while self._heap:
            self.now, _, act = heappop(self._heap)
            act()

    def act(self) -> None:
        """A random user does something."""
        user = self.random.choice(self.users)
        name = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if name in ("reconnect", "lose_bus", "renew_session"):
            getattr(self, name)(user)
            return
        args = self.arguments(user, name)
        if args is not None:
            self.call(user, name, args)
        if args and name == "send_message" and self.random.random() < 0.2:
            # The next one goes without waiting for the answer.
            self.call(user, name, args | self.draft(user, self.service.chats[args["chat_id"]]))

    def arguments(self, user: str, name: str) -> Json | None:
        """What may succeed, mostly."""
        if name == "search_messages":
            return {"query": "text"}
        if name in ("create_group", "update_me", "open_private_chat"):
            others = self.random.sample([other for other in self.users if other != user], 3)
            return {"create_group": {"member_ids": others}, "update_me": {}}.get(name, {"user_id": others[0]})
        mine = [chat for chat in self.service.chats.values() if user in chat.members]
        some = mine if self.random.random() < 0.95 else list(self.service.chats.values())
        if not some:
            return None
        chat = self.random.choice(some)
        args: Json = {"chat_id": chat.id}
        if name == "send_message":
            return args | self.draft(user, chat)
        if name in ON_MESSAGE:
            own = name in ("edit_message", "delete_message")
            seqs = [row.seq for row in chat.rows if row.type == "text" and (row.sender == user or not own)]
            if not seqs:
                return None
            emoji = {"emoji": "👍"}
            more: dict[str, Json] = {"edit_message": {"text": self.text()}, "react": emoji, "unreact": emoji}
            return args | {"seq": self.random.choice(seqs[-6:])} | more.get(name, {})
        somebody = self.random.choice(self.users)
        more = {
            "mark_read": {"seq": len(chat.rows)},
            "add_members": {"user_ids": [somebody], "share_history": self.random.random() < 0.4},
            "remove_member": {"user_id": somebody},
            # Not oneself: that changes nothing and is written nowhere.
            "set_creator": {"user_id": self.users[self.users.index(user) - 1] if somebody == user else somebody},
            "list_changes": {"since": max(0, chat.version - self.random.randrange(12))},
        }
        return args | more.get(name, {})

    def text(self) -> str:
        return f"text {next(self._ids)}"

    def draft(self, user: str, chat: Chat) -> Json:
        """A new message, or now and then other content under a client_id that was used."""
        used = self.used.get((user, chat.id))
        if used and self.random.random() < 0.02:
            return {"client_id": self.random.choice(used), "content": self.text()}
        client_id = f"c{next(self._ids)}"
        if chat.rows and self.random.random() < 0.05:
            source = {"from_chat_id": chat.id, "from_seq": self.random.choice(chat.rows).seq}
            return {"client_id": client_id, "content": source}
        return {"client_id": client_id, "content": self.text()}

    def call(self, user: str, name: str, args: Json, tries: int = 0, data: Json | None = None) -> None:
        """Ask; it takes effect later, or never, and is answered still later, or never."""
        via = self.random.choice(["http", "socket"])
        own = [one for one in self.service.connections if one.user == user]
        conn = own[0] if own and via == "socket" else None
        by = {"user": user, "session": self.sessions[user], "node": self.random.choice(NODES), "via": via}
        op = next(self._ids)
        self.record("invoke", op=op, name=name, args=args, conn=conn and conn.id, **by)
        is_lost = self.random.random() < 0.04
        has_effect = not is_lost or self.random.random() < 0.5
        delay = self.random.expovariate(20)
        if conn:
            # One connection's commands run in order.
            conn.busy_until = max(conn.busy_until + 1e-4, self.now + delay)
            delay = conn.busy_until - self.now
        outcome: Json = {}

        def take_effect() -> None:
            try:
                outcome.update({"outcome": "ok", "status": 200} | self.service.apply(user, name, args, conn))
            except Refused as refused:
                outcome.update(outcome="failed", status=refused.status, code=refused.code)
            if not is_lost:
                self.later(self._way_back(conn), end)

        def end() -> None:
            if is_lost:
                self.record("return", op=op, outcome="unknown", code="closed")
                if name == "send_message" and tries < 3:
                    self.call(user, name, args, tries + 1)
                return
            if name == "send_message" and outcome["outcome"] == "ok":
                self.used.setdefault((user, args["chat_id"]), []).append(args["client_id"])
            self.record("return", op=op, **outcome)

        if has_effect:
            self.later(delay, take_effect)
        if is_lost:
            self.later(delay + self.random.expovariate(30), end)

    def _way_back(self, conn: Connection | None) -> float:
        """The seconds that something takes to a client: what a connection carries comes in its order."""
        seconds = self.random.expovariate(50)
        if conn:
            conn.arrives_at = max(conn.arrives_at + 1e-6, self.now + seconds)
            seconds = conn.arrives_at - self.now
        return seconds

    def deliver(self, conn: Connection, name: str, data: Json) -> None:
        """Put an event on its way; a connection's events come in their order."""

        def arrive() -> None:
            if conn.is_open:
                self.record("event", conn=conn.id, name=name, data=data)

        self.later(self._way_back(conn), arrive)

    def log_in(self, user: str) -> None:
        op = next(self._ids)
        self.sessions[user] = f"s{op}"
        by = {"user": user, "session": "", "conn": None, "node": "a", "via": "http"}
        self.record("invoke", op=op, name="login", args={"password": self.passwords[user]}, **by)
        self.record("return", op=op, outcome="ok", status=200, data={"user": user, "session": f"s{op}"})

    def connect(self, user: str) -> None:
        conn = self.service.connect(f"k{next(self._ids)}", user, self.random.choice(NODES), self.now)
        about = {"user": user, "session": self.sessions[user], "node": conn.node, "active": None}
        self.record("open", conn=conn.id, **about)
        self.service.catch_up(conn)
        op = next(self._ids)
        self.record(
            "invoke",
            op=op,
            name="list_chats",
            args={},
            conn=conn.id,
            via="socket",
            **self.by(user) | {"node": conn.node},
        )
        mine = [chat.entry() for chat in self.service.chats.values() if user in chat.members]
        self.record("return", op=op, outcome="ok", status=200, data={"sync": "", "chats": mine, "removed": []})

    def by(self, user: str) -> Json:
        return {"user": user, "session": self.sessions[user]}

    def reconnect(self, user: str) -> None:
        for conn in [one for one in self.service.connections if one.user == user]:
            self.service.close(conn)
            self.record("close", conn=conn.id, why="client")
        self.connect(user)

    def lose_bus(self, user: str) -> None:
        """Events of a connection are dropped from now on, until it gets `resync_required`."""
        conn = next(one for one in self.service.connections if one.user == user)
        conn.is_deaf = True

        def warn() -> None:
            conn.is_deaf = False
            if conn.is_open:
                self.deliver(conn, "resync_required", {"reason": "missed"})

        self.later(self.random.random() * 2, warn)

    def renew_session(self, user: str) -> None:
        """Change the password: another session opens, and the former ends with its connections."""
        op, former = next(self._ids), self.passwords[user]
        new = f"password {op}"
        self.passwords[user] = new
        for conn in [one for one in self.service.connections if one.user == user]:
            self.service.close(conn)
            self.record("close", conn=conn.id, why="revoked")
        self.log_in(user)
        by = {"user": user, "session": self.sessions[user], "conn": None, "node": "b", "via": "http"}
        args = {"former": former, "password": new, "keep": self.sessions[user]}
        self.record("invoke", op=op, name="change_password", args=args, **by)
        self.record("return", op=op, outcome="ok", status=204)
        self.connect(user)

    def _finish(self) -> None:
        """Everybody reads everything from every node."""
        self.now += 30
        for chat in self.service.chats.values():
            for start in range(0, len(chat.rows), 100):
                self.record("page", id=f"{chat.id}/{start}", rows=[list(row) for row in chat.rows[start : start + 100]])
        for node in NODES:
            for user in self.users:
                mine = [chat for chat in self.service.chats.values() if user in chat.members]
                self.record("list", node=node, user=user, chats=[chat.id for chat in mine])
                for chat in mine:
                    self._read(node, user, chat)
        for conn in self.service.connections:
            state = {chat.id: chat.entry() for chat in self.service.chats.values() if conn.user in chat.members}
            self.record("kept", conn=conn.id, state=state)
            self.record("fresh", conn=conn.id, state=state)

    def _read(self, node: str, user: str, chat: Chat) -> None:
        first = chat.members[user]
        rows = [row for row in chat.rows if row.seq >= first]
        whole = range(first - 1 + (-(first - 1)) % 100, len(chat.rows), 100)
        pages = [f"{chat.id}/{start}" for start in whole]
        head = [row for row in rows if row.seq <= (whole[0] if pages else len(chat.rows))]
        if head:
            pages.insert(0, f"{chat.id}/{node}/{user}")
            self.record("page", id=pages[0], rows=[list(row) for row in head])
        fields = {"version": chat.version, "message_count": len(chat.rows), "member_count": len(chat.members)}
        fields |= {"visible_from": first, "type": chat.type, "members": chat.positions()}
        fields["creators"] = [chat.creator] if chat.type == "group" else []
        fields["peer"] = next((one for one in chat.members if one != user), None) if chat.type == "private" else None
        likes = {str(seq): sorted(users) for seq, users in chat.likes.items() if users and seq >= first}
        fields["reactions"] = {
            str(seq): sorted(found) for seq, found in chat.reactions.items() if found and seq >= first
        }
        self.record("final", node=node, user=user, chat=chat.id, pages=pages, likes=likes, **fields)


def history(seed: int, operations: int = 400) -> list[Json]:
    """The records of one simulated run."""
    return Simulation(seed, operations).run()


def rows_of(records: list[Json]) -> Iterator[Row]:
    """The rows of all final pages."""
    for record in records:
        if record["k"] == "page":
            yield from (Row(*found) for found in record["rows"])
