"""Names the reason why a user misses a message, from the JSON lines of the nodes alone.

These are the steps of manifests/RUNBOOK.md, in "One user misses a message".
"""

import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

Line = dict[str, Any]


class Cause(StrEnum):
    OFFLINE = "no connection of the receiver was open"
    HERE = "the node of the sender delivered it"
    ELSEWHERE = "another node delivered it"
    OVERTAKEN = "a newer change was delivered before it"
    BUS_DOWN = "it was not published: the bus was down"
    MISSED = "it was lost on the bus"


class Sent(NamedTuple):
    """A message: its chat, the request that sent it, its sender, and the time of its commit."""

    chat: str
    request_id: str
    sender: str
    at: str


def diagnose(
    *files: Path, chat: str | None = None, seq: int | None = None, request_id: str | None = None
) -> dict[str, Cause]:
    """By user the cause, for everybody in these files who did something in the chat, but the sender.

    A message is named by its chat and seq, or by the id of the request that sent it.
    """
    logs = {file: [json.loads(line) for line in file.read_text().splitlines()] for file in files}
    lines = [line for log in logs.values() for line in log]
    named = {"request_id": request_id} if request_id else {"chat": chat, "seq": seq}
    (answered,) = (line for line in _having(lines, event="answered", status=201, **named) if "seq" in line)
    (committed,) = _of_request(_having(lines, event="committed"), answered["request_id"])
    sent = Sent(answered["chat"], answered["request_id"], answered["user"], committed["timestamp"])
    receivers = {line["user"] for line in _having(lines, chat=sent.chat) if "user" in line} - {sent.sender}
    return {user: _cause(list(logs.values()), sent, user) for user in receivers}


def _cause(logs: list[list[Line]], sent: Sent, user: str) -> Cause:
    connected = [log for log in logs if _is_connected(log, user, sent.at)]
    if not connected:
        return Cause.OFFLINE
    lines = [line for log in connected for line in _of_request(log, sent.request_id)]
    if any(user in line["users"] for line in _having(lines, event="overtaken", kind="messages_changed")):
        return Cause.OVERTAKEN
    delivered = [line for line in _having(lines, event="delivered") if line["connections"]]
    if delivered:
        return Cause.ELSEWHERE if all("node" in line for line in delivered) else Cause.HERE
    every = [line for log in logs for line in _of_request(log, sent.request_id)]
    return Cause.BUS_DOWN if _having(every, event="not published", bus_up=False) else Cause.MISSED


def _is_connected(log: list[Line], user: str, at: str) -> bool:
    before = [line for line in _having(log, user=user) if line["timestamp"] <= at]
    opened = {line["connection"] for line in _having(before, event="connected")}
    return bool(opened - {line["connection"] for line in _having(before, event="disconnected")})


def _having(lines: Iterable[Line], **values: Any) -> list[Line]:
    return [line for line in lines if values.items() <= line.items()]


def _of_request(lines: Iterable[Line], request_id: str) -> list[Line]:
    return [line for line in lines if request_id in (line.get("request_id"), *line.get("requests", ()))]
