"""Sessions, and the service as a whole: it refuses what has ended, answers everything, and comes back by itself."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tests.chaos.facts import Operation
from tests.chaos.index import PROMISED_SECONDS, History
from tests.chaos.violation import Violation

OPENING = ("login", "login_with_code")
# What needs no session.
PUBLIC = {"login", "login_with_code", "register", "request_code", "reset_password", "verify_phone", "refresh"}
ANSWER_SECONDS = 20.0


class Ended(NamedTuple):
    """From then on a session is over, as somebody was answered."""

    t: float
    by: Operation


def revoked(history: History) -> Iterator[Violation]:
    """P19: a session that was ended is of no use, and its connections close."""
    ended = _ended(history)
    begun = {op.data["conn"]: op.t for op in history.named("connect", outcome="ok")}
    for op in history.operations.values():
        end = ended.get(op.session)
        if end and op.outcome == "ok" and op.t > end.t and op.name not in PUBLIC and op.via == "http":
            yield Violation("revoked session", "P19", f"{op}: accepted for session {op.session}, ended by {end.by}")
    for conn in history.connections.values():
        end = ended.get(conn.session)
        if end is None:
            continue
        if begun.get(conn.id, conn.opened) > end.t:
            text = f"connection {conn.id} of session {conn.session} opened at {conn.opened}, ended at {end.t}"
            yield Violation("revoked session", "P19", f"{text} by {end.by}")
        elif conn.closed > history.deadline(end.t, PROMISED_SECONDS) and history.ended > end.t + 10:
            text = f"connection {conn.id} of session {conn.session} is open until {conn.closed}, ended at {end.t}"
            yield Violation("revoked session", "P19", f"{text} by {end.by}")


def _ended(history: History) -> dict[str, Ended]:
    ended: dict[str, Ended] = {}
    sessions: dict[str, list[Operation]] = defaultdict(list)
    for op in history.named(*OPENING, outcome="ok"):
        if op.data.get("session"):
            sessions[op.data["user"]].append(op)
    opened_at = {op.data["session"]: op.returned for ops in sessions.values() for op in ops}
    for op in history.named("logout", "revoke_session", "change_password", "reset_password", outcome="ok"):
        gone = []
        if op.name == "logout":
            gone = [op.session]
        elif op.name == "revoke_session":
            gone = [op.args["session_id"]]
        else:
            # Sessions whose login had been answered before the change began, and those that used what it replaced.
            user = op.args.get("of", op.user)
            former = [opened for opened in sessions[user] if opened.returned < op.t or _is_former(opened, op)]
            gone = [opened.data["session"] for opened in former if opened.data["session"] != op.args.get("keep")]
        for session in gone:
            ended.setdefault(session, Ended(max(op.returned, opened_at.get(session, 0)), op))
    return ended


def _is_former(opened: Operation, change: Operation) -> bool:
    """Whether a login used the credential that a change, answered by now, had replaced."""
    password = change.args.get("former")
    return opened.name == "login" and password is not None and opened.args.get("password") == password


def credential(history: History) -> Iterator[Violation]:
    """P19: after a change of password was answered the former one is refused."""
    for change in history.named("change_password", outcome="ok"):
        for op in history.named("login", outcome="ok"):
            if op.t > change.returned and op.data.get("user") == change.user and _is_former(op, change):
                yield Violation("credential", "P19", f"{op}: accepted with the password that {change} replaced")


def server_error(history: History) -> Iterator[Violation]:
    """P25: no 5xx but 503."""
    for op in history.operations.values():
        if op.status >= 500 and op.status != 503:
            yield Violation("server error", "P25", f"{op}: {op.status} {op.code}")


def unanswered(history: History) -> Iterator[Violation]:
    """Every command is answered, unless its connection ends."""
    for op in history.operations.values():
        if op.outcome == "unknown" and op.code == "timeout" and op.returned > history.deadline(op.t, ANSWER_SECONDS):
            yield Violation("unanswered", "P22", f"{op}: no answer from {op.t} to {op.returned}")


def notes(history: History) -> Iterator[Violation]:
    """What the run itself found: `verify`, ends of nodes, and how long the service took to come back."""
    for note in history.notes:
        if note.get("violation"):
            yield Violation(note["violation"], note["promise"], note["text"])


RULES = (revoked, credential, server_error, unanswered, notes)
