"""Turn: events follow commits, come in order, and what does not come can be caught up or is announced."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

from tests.chaos.facts import Connection, Operation
from tests.chaos.history import Json
from tests.chaos.index import PROMISED_SECONDS, READING, History
from tests.chaos.rules_messages import SENDING
from tests.chaos.violation import Violation


def early_event(history: History) -> Iterator[Violation]:
    """P2: nobody gets an event of what is not committed."""
    seen = [(chat_id, row) for (chat_id, _, _), row in history.seen.items()]
    for chat_id, row in [*seen, *((chat_id, row) for chat_id, _, row, _ in history.conflicts)]:
        chat = history.chats.get(chat_id)
        if chat is None or chat_id in history.deleted:
            continue
        known = chat.rows.get(row.seq)
        if known is None and row.seq >= min(chat.rows, default=1):
            yield Violation("early event", "P2", f"{row} of {chat_id} was delivered and is not in the history")
        elif known and (known.sender, known.client_id, known.type) != (row.sender, row.client_id, row.type):
            yield Violation("early event", "P2", f"{row} of {chat_id} was delivered, and {known} is in the history")
        elif row.version > chat.version:
            yield Violation("early event", "P2", f"{row} of {chat_id} was delivered, whose version is {chat.version}")


def early_answer(history: History) -> Iterator[Violation]:
    """P2: a read that follows an acknowledgement or an event sees its change."""
    for name in READING:
        for op in history.named(name, outcome="ok"):
            if "version" not in op.data or op.data.get("has_more"):
                continue
            if op.data["version"] < op.version_floor.value:
                text = f"{op} got version {op.data['version']} of {op.chat}; {op.version_floor.value} was known from"
                yield Violation("not committed", "P2", f"{text} {op.version_floor.source}")


def order(history: History) -> Iterator[Violation]:
    """P10: on one connection the versions of a chat only go up."""
    for conn in history.connections.values():
        windows: dict[str, int] = {}
        entries: dict[str, int] = {}
        mine: dict[str, tuple[int, int]] = {}
        for t, name, data in conn.events:
            where = f"{conn.user} on connection {conn.id} at {t}"
            if name == "messages_changed":
                chat, since, version = data["chat"], data["since"], data["version"]
                if version <= windows.get(chat, 0) or since >= version:
                    text = f"{where} got versions {since} to {version} of {chat} after {windows.get(chat)}"
                    yield Violation("order", "P10", text)
                windows[chat] = max(version, windows.get(chat, 0))
            elif name == "chats_changed":
                for chat, version, *_ in data["chats"]:
                    if version < entries.get(chat, 0):
                        yield Violation("order", "P10", f"{where} got entry {version} of {chat} after {entries[chat]}")
                    entries[chat] = max(version, entries.get(chat, 0))
                for chat, version, read in data["mine"]:
                    if version < mine.get(chat, (0, 0))[0]:
                        yield Violation("order", "P10", f"{where} got mine {version} of {chat} after {mine[chat]}")
                    mine[chat] = max((version, read), mine.get(chat, (0, 0)))


def read_back(history: History) -> Iterator[Violation]:
    """Read positions only grow, also from one joining to the next."""
    for conn in history.connections.values():
        read: dict[tuple[str, str], int] = {}
        for t, name, data in conn.events:
            if name == "read_changed":
                key = (data["chat"], data["user"])
                if data["seq"] < read.get(key, 0):
                    text = f"{conn.user} on connection {conn.id} at {t}: {key} read {data['seq']} after {read[key]}"
                    yield Violation("read position", "P14", text)
                read[key] = data["seq"]


def lost_read(history: History) -> Iterator[Violation]:
    """P1: an acknowledged read position is there at the end, for every member."""
    for op in history.named("mark_read", outcome="ok"):
        chat = history.chats.get(op.args["chat_id"])
        spans = chat.spans.get(op.user, []) if chat else []
        if chat is None or not spans or spans[-1].left_version < inf:
            continue
        position = next((read for user, read in chat.finals[0].fields["members"] if user == op.user), None)
        if position is not None and position < op.data["read"]:
            text = f"{op}: acknowledged as {op.data['read']} in {chat.id}, at the end {position}"
            yield Violation("read position", "P1", text)


def changes(history: History) -> Iterator[Violation]:
    """P12: a page of changes has everything between its versions."""
    for op in history.named("list_changes", outcome="ok"):
        chat = history.chats.get(op.args["chat_id"])
        if chat is None or op.data["reset"]:
            continue
        span = chat.span_at(op.user, op.data["version"])
        got = {row[0] for row in op.data["rows"]}
        expected = {row.seq for row in chat.changed(op.data["since"], op.data["version"])}
        missing = {seq for seq in expected - got if span and seq >= span.surely_from}
        if missing:
            text = f"{op}: changes {op.data['since']} to {op.data['version']} of {chat.id} lack seqs {sorted(missing)}"
            yield Violation("changes", "P12", text)
        numbers = [row[1] for row in op.data["rows"]]
        if numbers != sorted(numbers) or any(not op.data["since"] < n <= op.data["version"] for n in numbers):
            yield Violation("changes", "P12", f"{op}: versions {numbers} in changes of {op.data['since']} on")


def resync(history: History) -> Iterator[Violation]:
    """P12: what the service gave to catch up with, it takes."""
    for op in history.named("list_chats", "list_changes", outcome="failed"):
        # An earlier version has no `ids`.
        if op.status == 422 and "ids" not in op.args:
            yield Violation("resync", "P12", f"{op} with {op.args}: {op.status} {op.code}")


def snapshot(history: History) -> Iterator[Violation]:
    """P14: what was kept up to date by events equals what is read anew."""
    for conn, states in history.compared.items():
        if states.keys() == {"kept", "fresh"}:
            for difference in list(_differences(states["kept"], states["fresh"], conn))[:3]:
                yield Violation("snapshot", "P14", difference)


def _differences(kept: Any, fresh: Any, path: str) -> Iterator[str]:
    if isinstance(kept, dict) and isinstance(fresh, dict):
        for key in kept.keys() | fresh.keys():
            yield from _differences(kept.get(key), fresh.get(key), f"{path}.{key}")
    elif kept != fresh:
        yield f"{path}: kept {kept!r}, read anew {fresh!r}"


class Learned(NamedTuple):
    """When one connection knew a version of a chat, or that it may have missed something."""

    t: float
    version: float


class Turn(NamedTuple):
    """An acknowledged message and when a member's connection knew of it."""

    op: Operation
    conn: Connection
    seconds: float
    is_late: bool


@lru_cache(maxsize=1)
def deliveries(history: History) -> list[Turn]:
    """Those of one history, found once."""
    return list(_deliveries(history))


def _deliveries(history: History) -> Iterator[Turn]:
    """Each acknowledged message with each connection that had to get it."""
    acked: dict[str, list[Operation]] = defaultdict(list)
    for op in sorted(history.named(*SENDING, outcome="ok"), key=lambda op: op.returned):
        if op.status == 201:
            acked[str(op.chat)].append(op)
    for conn in history.connections.values():
        for chat_id, learned in _learned(history, conn).items():
            chat = history.chats.get(chat_id)
            first = learned[0].t
            ops = acked[chat_id] if chat else []
            for op in ops[bisect_left(ops, first, key=lambda op: op.returned) :]:
                if op.returned >= conn.closed:
                    break
                if chat and chat.span_at(conn.user, op.row.version):
                    yield _delivery(history, conn, learned, op)


def _learned(history: History, conn: Connection) -> dict[str, list[Learned]]:
    """By chat, in the order of time."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    warned: list[float] = [conn.closed]
    for t, name, data in conn.events:
        if name == "chats_changed":
            for entry in data["chats"]:
                found[entry[0]].append((t, entry[2]))
            for chat_id, *_ in data["removed"]:
                found[chat_id].append((t, inf))
        elif name in ("resync_required", "session_revoked"):
            insort(warned, t)
    for op in history.of_connection.get(conn.id, ()):
        if op.name == "list_chats" and op.outcome == "ok":
            for entry in op.data["chats"]:
                found[entry[0]].append((op.returned, entry[2]))
    ends = [(t, inf) for t in warned]
    return {chat_id: [Learned(*one) for one in sorted([*seen, *ends])] for chat_id, seen in found.items()}


def _delivery(history: History, conn: Connection, learned: list[Learned], op: Operation) -> Turn:
    seq = op.row.seq
    # An event may come before its acknowledgement, but not before the send.
    start = bisect_left(learned, op.t, key=lambda one: one.t)
    t = next((learned[at].t for at in range(start, len(learned)) if learned[at].version >= seq), inf)
    if t == inf and any(one.version >= seq and one.version < inf for one in learned[:start]):
        t = op.returned
    seconds = max(t - op.returned, 0.0)
    is_late = seconds > PROMISED_SECONDS and t > history.deadline(op.returned, PROMISED_SECONDS)
    ended = history.ended
    return Turn(op, conn, seconds, is_late and history.deadline(op.returned, PROMISED_SECONDS) < ended)


def missed(history: History) -> Iterator[Violation]:
    """P11 and P13: a connected member has every message, or is warned, within the promised time."""
    for op, conn, seconds, is_late in deliveries(history):
        if is_late:
            text = f"seq {op.row.seq} of {op.chat}, acknowledged at {op.returned} ({op}), reached {conn.user}"
            yield Violation("missed", "P13", f"{text} on connection {conn.id} of {conn.node} after {seconds:.1f} s")


def missed_window(history: History) -> Iterator[Violation]:
    """P13: a connection that has a chat open ends with its newest version, or is warned."""
    for conn in history.connections.values():
        if conn.closed < inf:
            continue
        known = _window(history, conn)
        if known is None:
            continue
        chat_id, version, t = known
        chat = history.chats.get(chat_id)
        span = chat.span_at(conn.user, chat.version) if chat else None
        # A removal closed the chat, also if it was only learned by a resync.
        if chat and span and span.joined_version <= version < chat.version:
            text = f"{conn.user} on connection {conn.id} of {conn.node} has {chat_id} open at version {version}"
            yield Violation("missed", "P13", f"{text} since {t}, and was not warned; it is at {chat.version}")


def _window(history: History, conn: Connection) -> tuple[str, int, float] | None:
    """The chat that a connection has open at the end, and the greatest version it got; None: none, or it was warned."""
    facts: list[tuple[float, str, Json]] = list(conn.events)
    ops = [op for op in history.of_connection.get(conn.id, ()) if op.name in ("activate_chat", "list_changes")]
    asked = {"chat": "", "version": 0}
    facts += [
        (op.returned, op.name, asked | op.data | op.args | {"t": op.t})
        for op in ops
        if op.outcome == "ok" or not op.status
    ]
    window: tuple[str, int, float] | None = (conn.active, 0, inf) if conn.active else None
    # Events that come before the answer wait for it.
    newest: dict[str, tuple[float, int]] = {}
    for t, name, data in sorted(facts, key=lambda fact: fact[0]):
        chat = data.get("chat_id") or data.get("chat")
        if name == "messages_changed":
            newest[chat] = (t, data["version"])
        if name == "activate_chat":
            came_at, version = newest.get(chat, (0, 0))
            # An answer that was lost leaves open what is open.
            is_known = chat and data["version"]
            window = (chat, max(data["version"], version if came_at >= data["t"] else 0), t) if is_known else None
        elif name == "chats_changed" and window and window[0] in [removal[0] for removal in data["removed"]]:
            window = None
        elif name in ("messages_changed", "list_changes") and window and window[0] == chat:
            window = (window[0], max(window[1], data["version"]), t)
        elif name == "resync_required" and window:
            window = (window[0], 0, inf)
    return None if window is None or window[2] == inf else window


RULES = (
    *(early_event, early_answer, order, read_back, lost_read, changes, resync, snapshot),
    *(missed, missed_window),
)
