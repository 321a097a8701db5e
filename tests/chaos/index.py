"""A recorded history, arranged for the rules: operations, connections, and each chat as it was read at the end."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from math import inf
from typing import Any

from tests.chaos.facts import NOTHING, Connection, Final, Floor, Operation, Span
from tests.chaos.history import Json, Row

JOINING = {"members_added", "became_group", "group_created"}
ADDING = {"add_members", "create_group", "open_private_chat"}
REMOVING = {"remove_member", "leave_chat", "delete_chat"}
READING = {"list_changes", "list_messages", "get_chat", "activate_chat"}
# What a promise gives, and what a busy machine may add to it.
PROMISED_SECONDS, SLACK_SECONDS = 5.0, 3.0


class History:
    """All of a run. Reading it keeps for each operation what everybody had seen of its chat when it began."""

    def __init__(self, records: Iterable[Json]) -> None:
        self.run: Json = {}
        self.is_whole, self.ended = False, inf
        self.operations: dict[int, Operation] = {}
        self.connections: dict[str, Connection] = {}
        self.finals: dict[str, list[Final]] = defaultdict(list)
        self.lists: list[Json] = []
        self.compared: dict[str, dict[str, Any]] = defaultdict(dict)
        self.faults: list[Json] = []
        self.notes: list[Json] = []
        self.figures: Json = {}
        self.conflicts: list[tuple[str, Row, Row, str]] = []
        self.seen: dict[tuple[str, int, int], Row] = {}
        self._pages: dict[str, dict[int, Row]] = {}
        self._versions: dict[str, Floor] = {}
        self._seqs: dict[str, Floor] = {}
        for record in records:
            getattr(self, f"_{record['k']}")(record)
        self.faults.sort(key=lambda fault: fault["t"])

    def _run(self, record: Json) -> None:
        self.run = record

    def _end(self, record: Json) -> None:
        self.is_whole, self.ended = True, record["t"]

    def _invoke(self, record: Json) -> None:
        names = ("name", "args", "t", "user", "session", "conn", "node", "via")
        operation = Operation(record["op"], *(record[name] for name in names))
        self.operations[operation.id] = operation
        if chat := operation.args.get("chat_id"):
            operation.version_floor = self._versions.get(chat, NOTHING)
            operation.seq_floor = self._seqs.get(chat, NOTHING)

    def _return(self, record: Json) -> None:
        operation = self.operations[record["op"]]
        operation.returned, operation.outcome = record["t"], record["outcome"]
        operation.status, operation.code = record.get("status", 0), record.get("code")
        operation.data = record.get("data") or {}
        for chat, found in operation.data.get("found", ()):
            self._see_row(chat, Row(*found), f"the answer to {operation}")
        if operation.outcome == "ok" and operation.chat:
            self._see_answer(operation, operation.chat)

    def _see_answer(self, operation: Operation, chat: str) -> None:
        data, source = operation.data, f"the answer to {operation}"
        for found in (*data.get("rows", ()), *data.get("replied", ())):
            self._see_row(chat, Row(*found), source)
        if "row" in data:
            self._see_row(chat, Row(*data["row"]), source)
            self._raise(chat, data["row"][1], data["row"][0], source)
        elif "version" in data:
            self._raise(chat, data["version"], data.get("count", 0), source)

    def _open(self, record: Json) -> None:
        names = ("conn", "user", "session", "node", "t", "active")
        self.connections[record["conn"]] = Connection(*(record[name] for name in names))

    def _close(self, record: Json) -> None:
        connection = self.connections[record["conn"]]
        connection.closed, connection.why = record["t"], record["why"]

    def _event(self, record: Json) -> None:
        name, data, conn = record["name"], record["data"], record["conn"]
        self.connections[conn].events.append((record["t"], name, data))
        if name == "messages_changed":
            chat, source = data["chat"], f"an event on connection {conn}"
            for part in ("rows", "replied"):
                data[part] = [self._see_row(chat, Row(*found), source) for found in data.get(part, ())]
            self._raise(chat, data["version"], data["count"], source)
        elif name == "chats_changed":
            for entry in data["chats"]:
                self._raise(entry[0], entry[1], entry[2], f"an event on connection {conn}")

    def _page(self, record: Json) -> None:
        self._pages[record["id"]] = {found[0]: Row(*found) for found in record["rows"]}

    def _final(self, record: Json) -> None:
        rows: dict[int, Row] = {}
        for page in record["pages"]:
            rows |= self._pages[page]
        self.finals[record["chat"]].append(Final(record, rows))

    def _list(self, record: Json) -> None:
        self.lists.append(record)

    def _kept(self, record: Json) -> None:
        self.compared[record["conn"]]["kept"] = record["state"]

    def _fresh(self, record: Json) -> None:
        self.compared[record["conn"]]["fresh"] = record["state"]

    def _fault(self, record: Json) -> None:
        self.faults.append(record)

    def _figures(self, record: Json) -> None:
        self.figures = record

    def _note(self, record: Json) -> None:
        self.notes.append(record)

    def _see_row(self, chat: str, row: Row, source: str) -> Row:
        """Rows of one version are the same for all; each is kept once."""
        known = self.seen.setdefault((chat, row.seq, row.version), row)
        if known != row:
            self.conflicts.append((chat, known, row, source))
        return known

    def _raise(self, chat: str, version: int, seq: int, source: str) -> None:
        if version > self._versions.get(chat, NOTHING).value:
            self._versions[chat] = Floor(version, source)
        if seq > self._seqs.get(chat, NOTHING).value:
            self._seqs[chat] = Floor(seq, source)

    def named(self, *names: str, outcome: str | None = None) -> list[Operation]:
        """The operations of these names, in the order of their beginning."""
        found = [operation for name in names for operation in self._by_name[name]]
        kept = [operation for operation in found if outcome is None or operation.outcome == outcome]
        return sorted(kept, key=lambda operation: operation.id) if len(names) > 1 else kept

    @cached_property
    def _by_name(self) -> dict[str, list[Operation]]:
        found: dict[str, list[Operation]] = defaultdict(list)
        for operation in self.operations.values():
            found[operation.name].append(operation)
        return found

    @cached_property
    def of_connection(self) -> dict[str, list[Operation]]:
        """The operations over each connection."""
        found: dict[str, list[Operation]] = defaultdict(list)
        for operation in self.operations.values():
            if operation.conn:
                found[operation.conn].append(operation)
        return found

    @cached_property
    def opened(self) -> dict[str, list[Operation]]:
        """By chat: who opened it as a private one."""
        found: dict[str, list[Operation]] = defaultdict(list)
        for operation in self.named("open_private_chat", outcome="ok"):
            found[operation.data["chat"]].append(operation)
        return found

    @cached_property
    def additions(self) -> dict[str, list[Operation]]:
        """By chat: who may have added somebody."""
        found: dict[str, list[Operation]] = defaultdict(list)
        for operation in self.named("add_members"):
            if operation.outcome != "failed":
                found[operation.args["chat_id"]].append(operation)
        return found

    @cached_property
    def clearings(self) -> dict[str, set[str]]:
        """By chat: who may have moved the own visible start."""
        found: dict[str, set[str]] = defaultdict(set)
        for operation in self.named("clear_chat"):
            if operation.outcome != "failed":
                found[operation.args["chat_id"]].add(operation.user)
        return found

    @cached_property
    def chats(self) -> "dict[str, Chat]":
        """The chats that somebody read at the end."""
        return {chat_id: Chat(chat_id, finals, self) for chat_id, finals in self.finals.items()}

    @cached_property
    def deleted(self) -> set[str]:
        """Chats that somebody may have deleted."""
        return {str(op.args["chat_id"]) for op in self.named("delete_chat") if op.outcome != "failed"}

    def deadline(self, t: float, seconds: float) -> float:
        """When what was due `seconds` after `t` is late: the time of faults does not count."""
        due = t + seconds + SLACK_SECONDS
        for fault in self.faults:
            if fault["t"] <= due and fault["until"] + seconds + SLACK_SECONDS > due and fault["until"] > t:
                due = fault["until"] + seconds + SLACK_SECONDS
        return due


class Chat:
    """A chat at the end: its rows as the first readers have them, and who was in it when."""

    def __init__(self, id: str, finals: list[Final], history: History) -> None:
        self.id = id
        self.finals = finals
        self.rows: dict[int, Row] = {}
        for final in finals:
            for seq in final.rows.keys() - self.rows.keys():
                self.rows[seq] = final.rows[seq]
        self.version = max(final.fields["version"] for final in finals)
        self._history = history
        self.by_version = sorted((row.version, row.seq) for row in self.rows.values())
        # Of what was before the first row that anybody still sees, nothing is known.
        first = self.rows[min(self.rows)] if self.rows else None
        self.known_from = (first.version, first.seq) if first and first.seq > 1 else (0, 0)
        self.spans = self._spans()

    def changed(self, since: int, until: int) -> list[Row]:
        """The rows whose last change is in these versions."""
        first, last = bisect_right(self.by_version, (since, inf)), bisect_right(self.by_version, (until, inf))
        return [self.rows[seq] for _, seq in self.by_version[first:last]]

    def span_at(self, user: str, version: int) -> Span | None:
        """The membership in which a user may see this version."""
        if version < self.known_from[0]:
            return Span(0, 0, 1, 1)
        spans = self.spans.get(user, ())
        return next((span for span in spans if span.joined_version <= version < span.left_version), None)

    def was_member(self, user: str, seq: int) -> bool:
        """Whether a message of the user may stand at this seq."""
        return seq < self.known_from[1] or any(
            span.joined_seq <= seq < span.left_seq for span in self.spans.get(user, ())
        )

    def _spans(self) -> dict[str, list[Span]]:
        spans: dict[str, list[Span]] = {user: [Span(0, 0, 1, 1)] for user in self._pair()}
        for seq in sorted(self.rows):
            row = self.rows[seq]
            if row.type != "system":
                continue
            event, users, *_ = row.content
            if event in JOINING:
                founders = [row.sender] if event == "group_created" else []
                for user in [*users, *founders]:
                    spans.setdefault(user, []).append(self._joined(row, user, spans))
            elif event in ("member_removed", "member_left"):
                for user in users or [row.sender]:
                    if spans.get(user):
                        spans[user][-1] = spans[user][-1]._replace(left_version=row.version, left_seq=row.seq)
        cleared = self._history.clearings[self.id]
        for user in cleared & spans.keys():
            # What they saw when is not known.
            spans[user] = [span._replace(surely_from=inf) for span in spans[user]]
        for user, first in ((final.fields["user"], final.fields["visible_from"]) for final in self.finals):
            if own := spans.get(user):
                least = own[-1].visible_from if user in cleared else first
                own[-1] = own[-1]._replace(visible_from=least, surely_from=first)
        return spans

    def _joined(self, row: Row, user: str, spans: dict[str, list[Span]]) -> Span:
        """Where a newcomer's membership begins: with `share_history` they see what the one who adds sees."""
        if row.content[0] == "group_created":
            return Span(0, 0, 1, 1)
        adding = [op for op in self._history.additions[self.id] if op.user == row.sender]
        shared = {bool(op.args.get("share_history")) for op in adding if user in op.args["user_ids"]}
        is_surely = shared == {True} and row.sender not in self._history.clearings[self.id]
        adder = spans[row.sender][-1] if spans.get(row.sender) else None
        least = adder.visible_from if adder and True in shared else row.seq
        return Span(row.version, row.seq, least, adder.surely_from if adder and is_surely else row.seq)

    def _pair(self) -> list[str]:
        """The founders of a chat that began as a private one."""
        if opened := self._history.opened.get(self.id):
            return [opened[0].user, opened[0].args["user_id"]]
        if private := [final.fields for final in self.finals if final.fields.get("peer")]:
            return [private[0]["user"], private[0]["peer"]]
        first = self.rows[min(self.rows)] if self.rows else None
        is_group = first is not None and first.type == "system" and first.content[0] == "group_created"
        return [] if is_group else sorted(self._unannounced())

    def _unannounced(self) -> set[str]:
        """Of a chat whose opening was never answered: who is in it, or writes, before anything announces them."""
        announced: set[str] = set()
        founders: set[str] = set()
        for seq in sorted(self.rows):
            row = self.rows[seq]
            event, users, *_ = row.content if row.type == "system" else ("", [])
            founders |= {row.sender, *(() if event in JOINING else users)} - announced
            announced |= set(users) if event in JOINING else set()
        return founders | {user for user, _ in self.finals[0].fields["members"]} - announced
