"""Messages: nothing acknowledged is lost, doubled, reordered or changed, and nothing refused appears."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tests.chaos.facts import Final, Operation
from tests.chaos.index import Chat, History
from tests.chaos.violation import Violation

SENDING = ("send_message", "send_active_message")


def lost(history: History) -> Iterator[Violation]:
    """P1: what was acknowledged is there."""
    for op in history.named(*SENDING, outcome="ok"):
        if op.chat in history.deleted:
            continue
        chat = history.chats.get(str(op.chat))
        row = chat.rows.get(op.row.seq) if chat else None
        if row is None and chat and op.row.seq < chat.known_from[1]:
            continue  # nobody sees it any more
        if row is None or (row.sender, row.client_id) != (op.user, op.args["client_id"]):
            yield Violation("lost", "P1", f"{op}: acknowledged as seq {op.row.seq} of {op.chat}, where {row} stands")


def lost_change(history: History) -> Iterator[Violation]:
    """P1: an acknowledged edit or deletion is there, unless a later one replaced it."""
    changes: dict[tuple[str, int], list[Operation]] = defaultdict(list)
    for op in history.named("edit_message", "delete_message"):
        if op.outcome != "failed":
            changes[op.args["chat_id"], op.args["seq"]].append(op)
    for (chat_id, seq), ops in changes.items():
        chat = history.chats.get(chat_id)
        row = chat.rows.get(seq) if chat else None
        if row is None or row.deleted:
            continue
        for op in ops:
            is_last = all(other is op or other.returned < op.t for other in ops)
            is_there = op.name == "edit_message" and op.args["text"] in (row.content, _text(row.content))
            if op.outcome == "ok" and (op.name == "delete_message" or is_last) and not is_there:
                yield Violation("lost change", "P1", f"{op} of seq {seq} in {chat_id}: acknowledged, but {row} is read")


def _text(content: Any) -> Any:
    return content.get("text") if isinstance(content, dict) else content


# By operation: whether it puts something on a message, and where the reading at the end has it.
MARKS = {"like_message": (True, "likes"), "unlike_message": (False, "likes")}
MARKS |= {"react": (True, "reactions"), "unreact": (False, "reactions")}


def lost_mark(history: History) -> Iterator[Violation]:
    """P5: each user's last like or unlike decides whether they like a message. The same holds for each reaction."""
    by_mark: dict[tuple[str, int, str, str], list[Operation]] = defaultdict(list)
    for op in history.named(*MARKS):
        if op.outcome != "failed":
            mark = " ".join([op.user, *([op.args["emoji"]] if "emoji" in op.args else [])])
            by_mark[op.args["chat_id"], op.args["seq"], MARKS[op.name][1], mark].append(op)
    for (chat_id, seq, kind, mark), ops in by_mark.items():
        last = max(ops, key=lambda op: op.t)
        is_alone = all(op is last or op.returned < last.t for op in ops)
        marks = _marks(history, chat_id, seq, kind)
        if last.outcome == "ok" and is_alone and marks is not None and (mark in marks) != MARKS[last.name][0]:
            name = kind.removesuffix("s")
            yield Violation(name, "P5", f"{last} of seq {seq} in {chat_id}: acknowledged, but {marks} are read")


def _marks(history: History, chat_id: str, seq: int, kind: str) -> set[str] | None:
    """The likes or reactions of a message that is not deleted, as somebody read them who sees it."""
    for final in history.finals.get(chat_id, ()):
        row = final.rows.get(seq)
        if row is not None and final.fields[kind] is not None:
            return None if row.deleted else set(final.fields[kind].get(str(seq), ()))
    return None


def lost_pin(history: History) -> Iterator[Violation]:
    """P1: the last acknowledged pinning or unpinning of a message is there."""
    by_message: dict[tuple[str, int], list[Operation]] = defaultdict(list)
    for op in history.named("pin_message", "unpin_message"):
        if op.outcome != "failed":
            by_message[op.args["chat_id"], op.args["seq"]].append(op)
    for (chat_id, seq), ops in by_message.items():
        last = max(ops, key=lambda op: op.t)
        is_alone = all(op is last or op.returned < last.t for op in ops)
        chat = history.chats.get(chat_id)
        row = chat.rows.get(seq) if chat else None
        if row is None or row.deleted or last.outcome != "ok" or not is_alone:
            continue
        if bool(row.pinned) != (last.name == "pin_message"):
            yield Violation("pin", "P1", f"{last} of seq {seq} in {chat_id}: acknowledged, but {row} is read")


def phantom(history: History) -> Iterator[Violation]:
    """Nothing appears that nobody sent."""
    sent: dict[tuple[str, str | None], list[Operation]] = defaultdict(list)
    for op in history.named(*SENDING):
        sent[op.user, op.args["client_id"]].append(op)
    edits: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for op in history.named("edit_message"):
        if op.outcome != "failed":
            edits[op.args["chat_id"], op.args["seq"]].append(op.args["text"])
    for chat, row in _user_rows(history):
        # Without a chat_id it was for the active chat, which only an answer names.
        tries = [op for op in sent.get((row.sender, row.client_id), ()) if op.chat in (chat.id, None)]
        contents = [op.args["content"] for op in tries if op.outcome != "failed"]
        if not tries:
            yield Violation("phantom", "P4", f"{row} in {chat.id}: nobody sent it")
        elif row.author:
            yield from _unlike_original(history, chat, row, contents)
        elif not row.deleted and row.content not in contents and _text(row.content) not in edits[chat.id, row.seq]:
            yield Violation("phantom", "P4", f"{row} in {chat.id}: {contents} was sent, and no edit has this text")


def _unlike_original(history: History, chat: Chat, row: Any, contents: list[Any]) -> Iterator[Violation]:
    """A forward has the author of its original, which may have been edited or deleted since."""
    sources = [content for content in contents if isinstance(content, dict) and "from_chat_id" in content]
    if not sources:
        yield Violation("phantom", "P4", f"{row} in {chat.id}: {contents} was sent, and not to forward anything")
    for source in sources:
        origin = history.chats.get(source["from_chat_id"])
        original = origin.rows.get(source["from_seq"]) if origin else None
        if original and not original.deleted and row.author != (original.author or original.sender):
            yield Violation("phantom", "P4", f"{row} in {chat.id}: not the author of {original}, which was forwarded")


def duplicate(history: History) -> Iterator[Violation]:
    """P3: one client_id, one message."""
    places: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    for chat, row in _user_rows(history):
        places[chat.id, row.sender, row.client_id].add(row.seq)
    for op in history.named(*SENDING, outcome="ok"):
        places[op.chat, op.user, op.args["client_id"]].add(op.row.seq)
    for (chat_id, sender, client_id), seqs in places.items():
        if len(seqs) > 1:
            yield Violation("duplicate", "P3", f"{client_id} of {sender} in {chat_id} has seqs {sorted(seqs)}")


def reused(history: History) -> Iterator[Violation]:
    """P3: other content under the same client_id is refused, and no acknowledgement shows another's content."""
    contents: dict[tuple[Any, ...], tuple[Any, Operation]] = {}
    for op in history.named(*SENDING, outcome="ok"):
        first = contents.setdefault((op.chat, op.user, op.args["client_id"]), (op.args["content"], op))
        if first[0] != op.args["content"]:
            yield Violation("reused client_id", "P3", f"{op}: accepted with other content than {first[1]}")


def zombie(history: History) -> Iterator[Violation]:
    """P4: a send that was definitely refused, in each of its tries, never appears."""
    outcomes: dict[tuple[Any, ...], list[Operation]] = defaultdict(list)
    for op in history.named(*SENDING):
        outcomes[op.user, op.args["client_id"]].append(op)
    for chat, row in _user_rows(history):
        tries = outcomes.get((row.sender, row.client_id), ())
        if tries and all(op.outcome == "failed" for op in tries):
            yield Violation("zombie", "P4", f"{tries[0]}: refused with {tries[0].code}, but {row} is in {chat.id}")


def gap(history: History) -> Iterator[Violation]:
    """P7: seq is 1 … n for everybody from their visible start."""
    for chat in history.chats.values():
        for final in chat.finals:
            first, last = final.fields["visible_from"], final.fields["message_count"]
            missing = set(range(first, last + 1)) ^ final.rows.keys()
            if missing:
                yield Violation("gap", "P7", f"{_reader(final)}: not {first} … {last} but for {sorted(missing)[:10]}")


def divergence(history: History) -> Iterator[Violation]:
    """P7: everybody reads the same, from every node."""
    for chat_id, known, row, source in history.conflicts:
        yield Violation("divergence", "P7", f"{source} shows {row} of {chat_id}, and another {known}")
    for chat in history.chats.values():
        counts = ("version", "message_count", "member_count", "members")
        for final in chat.finals:
            other = chat.finals[0].fields
            for name in counts:
                if final.fields[name] != other[name]:
                    values = f"{final.fields[name]}, not {other[name]}"
                    yield Violation("divergence", "P7", f"{_reader(final)}: {name} is {values} as for {other['user']}")
            for seq, row in final.rows.items():
                if row is not chat.rows[seq] and row != chat.rows[seq]:
                    yield Violation("divergence", "P7", f"{_reader(final)}: {row}, not {chat.rows[seq]}")


def inversion(history: History) -> Iterator[Violation]:
    """P8 and P9: seqs follow the order of a connection, and that of acknowledgements and receipts."""
    last: dict[tuple[Any, ...], Operation] = {}
    for op in history.named(*SENDING, outcome="ok"):
        if op.status != 201:
            continue
        if op.row.seq <= op.seq_floor.value:
            text = f"{op} got seq {op.row.seq} of {op.chat}; seq {op.seq_floor.value} was known before from"
            yield Violation("inversion", "P9", f"{text} {op.seq_floor.source}")
        if op.conn and (before := last.get((op.conn, op.chat))) and before.row.seq > op.row.seq:
            yield Violation("inversion", "P8", f"{op} got seq {op.row.seq}, after {before}: {before.row.seq}")
        last[op.conn, op.chat] = op


def counter(history: History) -> Iterator[Violation]:
    """P5 and P7: every count equals what it counts."""
    for chat in history.chats.values():
        for final in chat.finals:
            fields = final.fields
            newest = max(final.rows, default=fields["visible_from"] - 1)
            pairs = [
                ("member_count", fields["member_count"], len(fields["members"])),
                ("message_count", fields["message_count"], newest),
                ("version", fields["version"], max([fields["version"], *(row.version for row in final.rows.values())])),
            ]
            likes = {seq: len(set(users)) for seq, users in (fields["likes"] or {}).items()}
            for seq, row in final.rows.items() if fields["likes"] is not None else ():
                if row.like_count or str(seq) in likes:
                    pairs.append((f"like_count of seq {seq}", row.like_count, likes.get(str(seq), 0)))
            reactions = {seq: _counts(marks) for seq, marks in (fields["reactions"] or {}).items()}
            for seq, row in final.rows.items() if fields["reactions"] is not None else ():
                if row.reactions or str(seq) in reactions:
                    pairs.append((f"reactions of seq {seq}", row.reactions, reactions.get(str(seq), "")))
            for name, value, counted in pairs:
                if value != counted:
                    yield Violation("counter", "P5", f"{_reader(final)}: {name} is {value}, counted {counted}")


def _counts(reactions: list[str]) -> str:
    """The reactions of some users as a row counts them."""
    counts = Counter(reaction.partition(" ")[2] for reaction in set(reactions))
    return " ".join(f"{emoji} {count}" for emoji, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def versions(history: History) -> Iterator[Violation]:
    """A version belongs to one change: no two rows have the same, nor a row one above its chat's."""
    for chat in history.chats.values():
        for (version, seq), (next_version, next_seq) in pairwise(chat.by_version):
            if version == next_version:
                yield Violation("version", "P10", f"{chat.id}: seqs {seq} and {next_seq} both have version {version}")


def pair(history: History) -> Iterator[Violation]:
    """P6: two people have one private chat."""
    chats: dict[frozenset[str], Counter[str]] = defaultdict(Counter)
    for chat_id, ops in history.opened.items():
        chats[frozenset((ops[0].user, ops[0].args["user_id"]))][chat_id] += len(ops)
    for users, found in chats.items():
        private = [chat_id for chat_id in found if not _became_group(history, chat_id)]
        if len(private) > 1:
            yield Violation("private pair", "P6", f"{sorted(users)} have the private chats {sorted(private)}")


def _became_group(history: History, chat_id: str) -> bool:
    chat = history.chats.get(chat_id)
    if chat is None:
        return bool(history.additions.get(chat_id))
    return any(row.type == "system" and row.content[0] == "became_group" for row in chat.rows.values())


def _user_rows(history: History) -> Iterator[tuple[Chat, Any]]:
    for chat in history.chats.values():
        for row in chat.rows.values():
            if row.type != "system":
                yield chat, row


def _reader(final: Final) -> str:
    return f"{final.fields['chat']} read by {final.fields['user']} from {final.fields['node']}"


RULES = (
    *(lost, lost_change, lost_mark, lost_pin, phantom, duplicate, reused, zombie, gap, divergence, inversion, counter),
    *(versions, pair),
)
