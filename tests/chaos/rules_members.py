"""Members: who is not in a chat gets nothing of it, writes nothing into it, and can't learn that it exists."""

from collections import Counter
from collections.abc import Iterable, Iterator
from math import inf
from typing import Any

from tests.chaos.attendance import Attendance, attendance
from tests.chaos.facts import Connection
from tests.chaos.history import Json, Row
from tests.chaos.index import PROMISED_SECONDS, History
from tests.chaos.rules_messages import SENDING
from tests.chaos.violation import Violation

# An operation on a chat that only its members may do.
IN_CHAT = {
    *("list_changes", "list_messages", "get_chat", "activate_chat", "list_members", "mark_read", "set_typing"),
    *("edit_message", "delete_message", "like_message", "unlike_message", "pin_chat", "unpin_chat", "rename_chat"),
    *("update_mine", "clear_chat"),
    *("get_group", "update_group", "set_group_avatar", "delete_group_avatar", "set_creator"),
    *("add_members", "react", "unreact", "list_reactions", "pin_message", "unpin_message", "list_pinned_messages"),
    *SENDING,
}
# From a node of the former release, which does not have the operation.
MISSING = ("not_found", "method_not_allowed", "unknown_command")
# The system message that each change of members writes.
WRITTEN_BY = {"remove_member": "member_removed", "leave_chat": "member_left", "set_creator": "creator_changed"}


def leak(history: History) -> Iterator[Violation]:
    """P16 and P18: each version and row goes to those who may see it."""
    for conn in history.connections.values():
        removed: dict[str, int] = {}
        for t, name, data in conn.events:
            if name == "messages_changed":
                rows = [*data["rows"], *data["replied"]]
                yield from _seen(history, conn, t, data["chat"], data["version"], rows, removed)
            elif name == "chats_changed":
                for chat_id, version, _, _, newest in data["chats"]:
                    rows = [newest] if newest else []
                    yield from _seen(history, conn, t, chat_id, version, rows, removed)
                removed |= {chat_id: version for chat_id, version, reason in data["removed"] if reason == "deleted"}


def _seen(
    history: History,
    conn: Connection,
    t: float,
    chat_id: str,
    version: int,
    rows: Iterable[Row | int],
    removed: dict[str, int],
) -> Iterator[Violation]:
    chat = history.chats.get(chat_id)
    if chat is None:
        if chat_id in history.deleted and version > removed.get(chat_id, version):
            who = _who(conn, t)
            yield Violation("leak", "P16", f"{who} got version {version} of {chat_id}, deleted at {removed[chat_id]}")
        return
    span = chat.span_at(conn.user, version)
    if span is None:
        text = f"{_who(conn, t)} got version {version} of {chat_id}, a member in {chat.spans.get(conn.user)}"
        yield Violation("leak", "P16", text)
        return
    for row in rows:
        seq = row if isinstance(row, int) else row.seq
        if seq < span.visible_from:
            text = f"{_who(conn, t)} got seq {seq} of {chat_id}, visible from {span.visible_from}"
            yield Violation("leak", "P18", text)


def _who(conn: Connection, t: float) -> str:
    return f"{conn.user} on connection {conn.id} at {t}"


def leak_by_page(history: History) -> Iterator[Violation]:
    """P15 and P18: what is read is of a chat one is in, and not older than one's visible start."""
    for op in history.operations.values():
        chat = history.chats.get(str(op.chat))
        if op.outcome != "ok" or chat is None or "version" not in op.data or op.name not in IN_CHAT:
            continue
        span = chat.span_at(op.user, op.data["version"])
        is_outside = attendance(history).left_at(chat.id, op.user, op.t, op.returned) is not None
        if is_outside:
            continue  # a rule of its own
        seqs = [row[0] for row in (*op.data.get("rows", ()), *op.data.get("replied", ()))]
        if span and seqs and min(seqs) < span.visible_from:
            yield Violation("leak", "P18", f"{op} got seq {min(seqs)} of {chat.id}, visible from {span.visible_from}")


def leak_by_search(history: History) -> Iterator[Violation]:
    """P15 and P18: what is found is in a chat one is in, not older than one's visible start, and has the word."""
    was_there = attendance(history)
    for op in history.named("search_messages", outcome="ok"):
        for chat_id, row in ((chat_id, Row(*found)) for chat_id, found in op.data["found"]):
            left = was_there.left_at(chat_id, op.user, op.t, op.returned)
            if left is not None or was_there.was_never(chat_id, op.user, op.returned):
                yield Violation("leak", "P15", f"{op} found {row} in {chat_id}, which they left at {left}")
            elif row.seq < _visible_from(history, chat_id, op.user, row):
                yield Violation("leak", "P18", f"{op} found {row} in {chat_id}, older than what they may see")
            elif row.deleted or row.type == "system" or not _has_word(row, op.args["query"]):
                yield Violation("leak", "P18", f"{op} found {row} in {chat_id}, which does not match")


def _visible_from(history: History, chat_id: str, user: str, row: Row) -> int:
    """The least seq that any membership of the user shows; 0 if that is not known."""
    chat = history.chats.get(chat_id)
    if chat is None or row.seq < chat.known_from[1] or not chat.spans.get(user):
        return 0
    return min(span.visible_from for span in chat.spans[user])


def _has_word(row: Row, query: str) -> bool:
    text = row.content.get("text", "") if isinstance(row.content, dict) else row.content
    return any(word.startswith(query) for word in text.split())


def late_accept(history: History) -> Iterator[Violation]:
    """P17: a sender is a member at the commit."""
    for chat in history.chats.values():
        for row in chat.rows.values():
            if row.type != "system" and chat.spans and not chat.was_member(row.sender, row.seq):
                text = f"{row} in {chat.id}: its sender was a member in {chat.spans.get(row.sender)}"
                yield Violation("late accept", "P17", text)


def access(history: History) -> Iterator[Violation]:
    """P15 and P17: for a former member, and for others, the chat does not exist."""
    was_there = attendance(history)
    for op in history.operations.values():
        if op.name not in IN_CHAT or op.outcome == "unknown" or not op.chat or op.status in (401, 429):
            continue
        left = was_there.left_at(op.chat, op.user, op.t, op.returned)
        is_alien = op.chat in history.chats and was_there.was_never(op.chat, op.user, op.returned)
        if left is None and not is_alien:
            continue
        if op.outcome == "ok":
            kind = "late accept" if op.name in SENDING else "access"
            yield Violation(kind, "P15", f"{op}: accepted in {op.chat}, which they left at {left}")
        elif op.code not in ("chat_not_found", "user_not_found", *MISSING) and op.status != 422:
            yield Violation("access", "P15", f"{op}: {op.status} {op.code} for {op.chat}, which they left at {left}")


def passing_leak(history: History) -> Iterator[Violation]:
    """P16: also what has no version goes to members only."""
    was_there = attendance(history)
    for conn in history.connections.values():
        for t, name, data in conn.events:
            if name not in ("typing_changed", "read_changed"):
                continue
            left = was_there.left_at(data["chat"], conn.user, t, t)
            if left is not None and t > history.deadline(left, PROMISED_SECONDS):
                yield Violation("leak", "P16", f"{conn.user} got {name} of {data} at {t}, having left at {left}")


def audience(history: History) -> Iterator[Violation]:
    """P16: presence and profiles go to private peers, and to members who have a common chat open."""
    was_there = attendance(history)
    peers = {frozenset((op.user, op.args["user_id"])) for op in history.named("open_private_chat")}
    for conn in history.connections.values():
        opened = _opened(history, conn)
        for t, name, data in conn.events:
            if name not in ("presence_changed", "users_changed"):
                continue
            for user in data.get("users") or [data["user"]]:
                if frozenset((user, conn.user)) in peers or user == conn.user:
                    continue
                chats = {chat for chat, since, until in opened if since <= t <= until}
                if not any(_share(history, was_there, chat, (user, conn.user), t) for chat in chats):
                    text = f"{conn.user} on connection {conn.id} got {name} of {user} at {t}"
                    yield Violation("audience", "P16", f"{text}, and has none of {sorted(chats)} in common with them")


def _opened(history: History, conn: Connection) -> list[tuple[str, float, float]]:
    """The chats that may have been open on a connection: from the request to open one, until another was open."""
    found: list[tuple[str, float, float]] = []
    if conn.active:
        found.append((conn.active, conn.opened, inf))
    for op in history.of_connection.get(conn.id, ()):
        if op.name != "activate_chat" or op.outcome == "failed":
            continue
        if op.outcome == "ok":
            until = history.deadline(op.returned, PROMISED_SECONDS)
            found = [(chat, since, min(until, end)) for chat, since, end in found]
        if op.args["chat_id"]:
            found.append((op.args["chat_id"], op.t, inf))
    return found


def _share(history: History, was_there: Attendance, chat_id: str, users: tuple[str, str], t: float) -> bool:
    """Whether both may have been in the chat a moment ago."""
    for user in users:
        left = was_there.left_at(chat_id, user, t, t)
        is_gone = left is not None and t > history.deadline(left, PROMISED_SECONDS)
        if is_gone or was_there.was_never(chat_id, user, t):
            return False
    return True


def membership(history: History) -> Iterator[Violation]:
    """P1 and P4: each removal and leaving that was acknowledged is written once, and no other is."""
    acked, possible = Counter[tuple[Any, ...]](), Counter[tuple[Any, ...]]()
    for op in history.named(*WRITTEN_BY):
        key = (op.args["chat_id"], WRITTEN_BY[op.name], op.user, op.args.get("user_id", op.user))
        acked[key] += op.outcome == "ok"
        possible[key] += op.outcome != "failed"
    written = Counter[tuple[Any, ...]]()
    for chat in history.chats.values():
        for row in chat.rows.values():
            if row.type == "system" and row.content[0] in WRITTEN_BY.values():
                for user in row.content[1] or [row.sender]:
                    written[chat.id, row.content[0], row.sender, user] += 1
    for key in {key for key in [*acked, *written] if key[0] in history.chats}:
        if not acked[key] <= written[key] <= possible[key]:
            text = f"{key}: {acked[key]} acknowledged, {possible[key]} tried, {written[key]} written"
            yield Violation("membership", "P1", text)


def timeline(history: History) -> Iterator[Violation]:
    """P7: the members of a chat follow from its system messages."""
    for chat in history.chats.values():
        now = sorted(user for user, spans in chat.spans.items() if spans and spans[-1].left_version == inf)
        for final in chat.finals:
            members: list[Any] = final.fields["members"]
            if chat.spans and sorted(member[0] for member in members) != now:
                text = f"{chat.id} read by {final.fields['user']}: members {sorted(m[0] for m in members)}, not {now}"
                yield Violation("membership", "P7", text)


def creator(history: History) -> Iterator[Violation]:
    """P7: a group has one creator, who follows from its system messages."""
    for chat in history.chats.values():
        if not chat.spans or 1 not in chat.rows:
            continue
        is_group = chat.rows[1].type == "system" and chat.rows[1].content[0] == "group_created"
        expected = [chat.rows[1].sender] if is_group else []
        for seq in sorted(chat.rows):
            row = chat.rows[seq]
            if row.type == "system" and row.content[0] in ("became_group", "creator_changed"):
                expected = [row.sender] if row.content[0] == "became_group" else row.content[1]
        for final in chat.finals:
            if final.fields.get("creators", expected) != expected:
                text = (
                    f"{chat.id} read by {final.fields['user']}: created by {final.fields['creators']}, not {expected}"
                )
                yield Violation("membership", "P7", text)


def deleted(history: History) -> Iterator[Violation]:
    """P1: a group whose deletion was acknowledged is nowhere."""
    for op in history.named("delete_chat", outcome="ok"):
        if finals := history.finals.get(op.args["chat_id"]):
            readers: list[Json] = [final.fields for final in finals]
            yield Violation("lost change", "P1", f"{op}: {op.args['chat_id']} is still read by {readers[0]['user']}")


RULES = (
    *(leak, leak_by_page, leak_by_search, late_accept, access, passing_leak),
    *(audience, membership, timeline, creator, deleted),
)
