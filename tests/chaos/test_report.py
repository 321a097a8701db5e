"""The table of a run."""

from typing import Any

from tests.chaos.checker import judge
from tests.chaos.report import report

Json = dict[str, Any]


def sending(op: int, since: float, until: float) -> list[Json]:
    by = {"user": "u1", "session": "s1", "conn": "k1", "node": "a", "via": "socket"}
    args = {"chat_id": "chat", "client_id": f"id{op}", "content": "text"}
    data = {"chat": "chat", "row": [op, op, "u1", f"id{op}", "text", "text", 0, 0]}
    return [
        {"k": "invoke", "t": since, "op": op, "name": "send_message", "args": args, **by},
        {"k": "return", "t": until, "op": op, "outcome": "ok", "status": 201, "data": data},
    ]


def opening(conn: str, t: float) -> Json:
    return {"k": "open", "t": t, "conn": conn, "user": "u1", "session": "s1", "node": "a", "active": None}


def warning(conn: str, t: float) -> Json:
    return {"k": "event", "t": t, "conn": conn, "name": "resync_required", "data": {"reason": "missed"}}


def test_it_shows_what_a_frozen_bus_costs() -> None:
    records = [opening("k1", 0.5), opening("k2", 0.5), *sending(1, 1, 1.9), *sending(2, 11, 11.2)]
    records += [warning("k1", 12), warning("k1", 31.5), warning("k2", 32.25), warning("k2", 50), opening("k3", 33)]
    records += [{"k": "fault", "t": 10, "until": 30, "name": "bus-freeze", "detail": ""}, warning("k3", 34)]
    lines = [line.strip() for line in report(judge(records)).splitlines()]

    def shown(beginning: str) -> str:
        return next(line for line in lines if line.startswith(beginning))

    assert shown("p50 / p99 while the bus is frozen, ms").endswith(" 200 / 200")
    assert shown("resync after bus-freeze").endswith("2 connections, p50 2.2 s, the last after 2.2 s")
