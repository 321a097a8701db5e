"""When a user may have been in a chat, by the clock of the run."""

from collections import defaultdict
from functools import lru_cache
from math import inf
from typing import NamedTuple

from tests.chaos.facts import Operation
from tests.chaos.index import ADDING, REMOVING, History


class _Interval(NamedTuple):
    """From the request to the answer: it took effect somewhere within."""

    begun: float
    answered: float


class Attendance:
    """Joinings that may have happened, and removals that certainly have."""

    def __init__(self, history: History) -> None:
        self.joins: dict[tuple[str, str], list[_Interval]] = defaultdict(list)
        self._removals: dict[tuple[str, str], list[_Interval]] = defaultdict(list)
        self._deletions: dict[str, float] = {}
        created = {op.chat for op in history.named("create_group", "open_private_chat", outcome="ok")}
        # Made by an operation whose answer was lost, and gone at the end: nobody knows who was there first.
        self.obscure = {str(op.chat) for op in history.operations.values() if op.chat} - created - history.chats.keys()
        for op in history.named(*ADDING, *REMOVING):
            if op.outcome != "failed" and op.chat:
                self._note(op, op.chat)
        for chat_id, chat in history.chats.items():
            # Founders whose request was never answered, and members from before the first known row.
            founders = {user for user, spans in chat.spans.items() if spans[0].joined_version == 0}
            for user in founders if chat.known_from[1] == 0 else history.run["users"]:
                self.joins[chat_id, user].append(_Interval(-inf, -inf))

    def _note(self, op: Operation, chat: str) -> None:
        interval = _Interval(op.t, op.returned if op.outcome == "ok" else inf)
        match op.name:
            case "add_members":
                users = op.args["user_ids"]
            case "create_group":
                users = [*op.args["member_ids"], op.user]
            case "open_private_chat":
                users = [op.args["user_id"], op.user]
            case "delete_chat":
                if op.outcome == "ok":
                    self._deletions[chat] = min(op.returned, self._deletions.get(chat, inf))
                return
            case _:
                if op.outcome == "ok":
                    self._removals[chat, op.args.get("user_id", op.user)].append(interval)
                return
        for user in users:
            self.joins[chat, user].append(interval)

    def left_at(self, chat: str, user: str, since: float, until: float) -> float | None:
        """When the user had left for sure, if they were outside from `since` to `until`."""
        if self._deletions.get(chat, inf) < since:
            return self._deletions[chat]
        for removal in self._removals.get((chat, user), ()):
            if removal.answered < since and not any(
                join.answered > removal.begun and join.begun < until for join in self.joins[chat, user]
            ):
                return removal.answered
        return None

    def was_never(self, chat: str, user: str, until: float) -> bool:
        """Whether nobody had tried to put the user there."""
        if chat in self.obscure:
            return False
        return not any(join.begun < until for join in self.joins.get((chat, user), ()))


@lru_cache(maxsize=1)
def attendance(history: History) -> Attendance:
    """That of one history, made once."""
    return Attendance(history)
