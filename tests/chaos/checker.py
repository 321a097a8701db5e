"""The verdict on a recorded history: a pure function, `judge`. Valid only if everything could be judged."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from tests.chaos import rules_delivery, rules_members, rules_messages, rules_run
from tests.chaos.history import Json
from tests.chaos.index import History
from tests.chaos.violation import Rule, Violation

RULES: tuple[Rule, ...] = (
    *rules_messages.RULES,
    *rules_members.RULES,
    *rules_delivery.RULES,
    *rules_run.RULES,
)
# Of one rule; the first ones show what is wrong.
MOST_SHOWN = 20


class Verdict(NamedTuple):
    """`unknown`: why the history proves nothing, also if no rule is broken."""

    violations: list[Violation]
    unknown: list[str]
    history: History

    @property
    def name(self) -> str:
        return "invalid" if self.violations else "unknown" if self.unknown else "valid"

    @property
    def by_kind(self) -> Counter[str]:
        return Counter(violation.kind for violation in self.violations)


def judge(records: Iterable[Json]) -> Verdict:
    """Apply every rule."""
    history = History(records)
    violations = [found for rule in RULES for found in islice(rule(history), MOST_SHOWN)]
    return Verdict(violations, list(_unproved(history)), history)


def _unproved(history: History) -> Iterator[str]:
    """What is missing to call a history valid."""
    run = history.run
    if not run or not history.is_whole:
        yield "the history has no beginning or no end"
        return
    succeeded = Counter(op.name for op in history.operations.values() if op.outcome == "ok")
    for name in run["operations"]:
        if not succeeded[name]:
            yield f"no {name} ever succeeded"
    for transport in ("http", "socket"):
        if not any(op.via == transport and op.outcome == "ok" for op in history.named("send_message")):
            yield f"no message was ever acknowledged over {transport}"
    yield from _unread(history)
    for name in set(run["faults"]) - {fault["name"] for fault in history.faults}:
        yield f"the fault {name} never happened"
    for name in ("messages_changed", "chats_changed"):
        if not any(event[1] == name for conn in history.connections.values() for event in conn.events):
            yield f"nobody ever got {name}"
    if not any(states.keys() == {"kept", "fresh"} for states in history.compared.values()):
        yield "no client compared what it kept with what it read anew"


def _unread(history: History) -> Iterator[str]:
    """Final reads that are missing."""
    read = {(final.fields["node"], final.fields["user"], chat) for chat, all in history.finals.items() for final in all}
    lists = {(found["node"], found["user"]): found["chats"] for found in history.lists}
    for node in history.run["nodes"]:
        for user in history.run["users"]:
            if (node, user) not in lists:
                yield f"{user} did not read the list of chats from {node} at the end"
            for chat in lists.get((node, user), ()):
                if (node, user, chat) not in read:
                    yield f"{user} did not read {chat} from {node} at the end"
    for op in history.named("send_message", outcome="ok"):
        if op.chat not in history.finals and op.chat not in history.deleted:
            yield f"nobody read {op.chat} at the end, where messages were acknowledged"
            return
