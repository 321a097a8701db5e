"""More faults planted in a valid history: in who gets what and when, and in sessions."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.chaos.history import Json
from tests.chaos.spoil import CONTENT, SENDER, SEQ, TYPE, VERSION, Records


def removed_member_gets_messages(found: Records) -> None:
    asked, _ = found.pick(found.removals())
    chat, user = asked["args"]["chat_id"], asked["args"]["user_id"]
    conn = [conn for conn, opened in found.conns.items() if opened["user"] == user][-1]
    row = max((rows[0] for (of, _), rows in found.read.items() if of == chat), key=lambda row: row[VERSION])
    data = {"chat": chat, "since": row[VERSION] - 1, "version": row[VERSION], "count": row[SEQ], "members": []}
    event = {"k": "event", "t": found.all[-1]["t"] - 5, "conn": conn, "name": "messages_changed"}
    found.insert({**event, "data": {**data, "rows": [row]}})


def removed_member_gets_list_entries(found: Records) -> None:
    for asked, returned in found.removals():
        chat, user = asked["args"]["chat_id"], asked["args"]["user_id"]
        conn = next((conn for conn, opened in found.conns.items() if opened["user"] == user), None)
        for event in found.events("chats_changed"):
            entries = event["data"]["chats"]
            if conn and entries and entries[0][0] == chat and event["t"] > returned["t"]:
                found.insert({**event, "conn": conn})
                return


def removed_member_sees_typing(found: Records) -> None:
    asked, _ = found.pick(found.removals())
    chat, user = asked["args"]["chat_id"], asked["args"]["user_id"]
    conn = [conn for conn, opened in found.conns.items() if opened["user"] == user][-1]
    t = found.all[-1]["t"] - 5
    found.insert({"k": "event", "t": t, "conn": conn, "name": "typing_changed", "data": {"chat": chat, "user": "u0"}})


def newcomer_gets_older_message(found: Records) -> None:
    late = {(final["user"], final["chat"]): final["visible_from"] for final in found.of("final")}
    for event in reversed(list(found.events("messages_changed"))):
        first = late.get((found.conns[event["conn"]]["user"], event["data"]["chat"]), 0)
        if first > 3 and event["data"]["rows"] and event["data"]["rows"][0][SEQ] >= first:
            event["data"]["rows"][0][SEQ] = 1
            return


def newcomer_gets_older_quote(found: Records) -> None:
    late = {(final["user"], final["chat"]): final["visible_from"] for final in found.of("final")}
    for event in reversed(list(found.events("messages_changed"))):
        first = late.get((found.conns[event["conn"]]["user"], event["data"]["chat"]), 0)
        if first > 3 and event["data"]["rows"] and event["data"]["rows"][0][SEQ] >= first:
            event["data"]["replied"] = [[1, 2, "u0", "c", "text", "older", 0, 0]]
            return


def newcomer_reads_older_message(found: Records) -> None:
    for asked, returned in found.done("list_messages", "list_changes"):
        for final in found.of("final"):
            is_theirs = (final["user"], final["chat"]) == (asked["user"], asked["args"]["chat_id"])
            if is_theirs and final["visible_from"] > 3 and returned["data"]["rows"]:
                returned["data"]["rows"].insert(0, [1, 2, "u0", "c", "text", "older", 0, 0])
                return


def removed_member_finds_messages(found: Records) -> None:
    asked, _ = found.pick(found.removals())
    chat, user = asked["args"]["chat_id"], asked["args"]["user_id"]
    row = max((rows[0] for (of, _), rows in found.read.items() if of == chat), key=lambda row: row[VERSION])
    _find(found, user, chat, row)


def newcomer_finds_older_message(found: Records) -> None:
    final = found.pick(final for final in found.of("final") if final["visible_from"] > 3)
    _find(found, final["user"], final["chat"], [1, 2, "u0", "c", "text", "text 0", 0, 0])


def deleted_message_is_found(found: Records) -> None:
    asked, _ = found.pick(found.done("delete_message"))
    (row, *_) = found.rows(asked["args"]["chat_id"], asked["args"]["seq"])
    _find(found, asked["user"], asked["args"]["chat_id"], row)


def _find(found: Records, user: str, chat: str, row: list[Any]) -> None:
    """Add the row to a late search of the user."""
    done = ((asked, returned) for asked, returned in found.done("search_messages") if asked["user"] == user)
    _, returned = max(done, key=lambda both: both[0]["t"])
    returned["data"]["found"].append([chat, row])


def removed_member_writes(found: Records) -> None:
    for asked, returned in found.removals():
        chat, user = asked["args"]["chat_id"], asked["args"]["user_id"]
        for other, answered, rows in found.sent():
            if other["args"]["chat_id"] == chat and other["t"] > returned["t"]:
                other["user"] = user
                answered["data"]["row"][SENDER] = user
                for row in rows:
                    row[SENDER] = user
                return


def outsider_is_accepted(found: Records) -> None:
    for asked, returned in found.done("send_message", outcome="failed"):
        if returned["code"] == "chat_not_found":
            row = [1, 2, asked["user"], asked["args"]["client_id"], "text", asked["args"]["content"], 0, 0]
            returned.update(outcome="ok", status=201, data={"chat": asked["args"]["chat_id"], "row": row})
            return


def outsider_reads(found: Records) -> None:
    for _, returned in found.done("list_messages", "list_changes", outcome="failed"):
        if returned["code"] == "chat_not_found":
            returned.update(outcome="ok", status=200, data={"version": 10**6, "rows": [], "since": 0, "reset": True})


def outsider_learns_of_the_chat(found: Records) -> None:
    for _, returned in found.done("list_messages", "send_message", "like_message", outcome="failed"):
        if returned["code"] == "chat_not_found":
            returned.update(status=403, code="not_creator")
            return


def removal_is_not_written(found: Records) -> None:
    asked, _ = found.pick(found.removals())
    for page in found.of("page"):
        for row in page["rows"]:
            if row[TYPE] == "system" and row[CONTENT] == ["member_removed", [asked["args"]["user_id"]]]:
                row[CONTENT] = ["members_added", []]


def handing_over_leaves_two_creators(found: Records) -> None:
    asked, _ = found.pick(found.done("set_creator"))
    for final in found.of("final"):
        if final["chat"] == asked["args"]["chat_id"]:
            final["creators"] = [asked["user"], *final["creators"]]


def deleted_chat_stays(found: Records) -> None:
    final = found.pick(found.of("final"))
    by = {"user": final["user"], "session": "", "conn": None, "node": "a", "via": "http"}
    t = found.all[-1]["t"] - 30
    found.insert({"k": "invoke", "t": t, "op": -1, "name": "delete_chat", "args": {"chat_id": final["chat"]}, **by})
    found.insert({"k": "return", "t": t + 0.1, "op": -1, "outcome": "ok", "status": 204})


def event_of_a_rollback(found: Records) -> None:
    events = (event for event in found.events("messages_changed") if event["data"]["rows"])
    event = found.pick(event for event in events if event["data"]["chat"] in found.present)
    seq = event["data"]["rows"][0][SEQ]
    event["data"]["rows"][0] = [seq, event["data"]["version"], "u0", "rolled back", "text", "never", 0, 0]


def read_lags_behind(found: Records) -> None:
    """An acknowledgement that comes before its commit is behind a read that follows it."""
    for asked, returned in found.done("list_messages"):
        for sent, answered, _ in found.sent():
            is_before = answered["t"] < asked["t"] and sent["args"]["chat_id"] == asked["args"]["chat_id"]
            if is_before and returned["data"]["version"] >= answered["data"]["row"][VERSION]:
                returned["data"]["version"] = answered["data"]["row"][VERSION] - 1
                return


def events_out_of_order(found: Records) -> None:
    last: dict[Any, Json] = {}
    for event in found.events("messages_changed"):
        key = event["conn"], event["data"]["chat"]
        if key in last:
            last[key]["data"], event["data"] = event["data"], last[key]["data"]
            return
        last[key] = event


def read_position_goes_back(found: Records) -> None:
    event = found.pick(event for event in found.events("read_changed") if event["data"]["seq"] > 1)
    found.insert({**event, "data": {**event["data"], "seq": event["data"]["seq"] - 1}})


def read_position_is_lost(found: Records) -> None:
    for asked, returned in found.done("mark_read"):
        for final in found.of("final"):
            if final["chat"] == asked["args"]["chat_id"]:
                for member in final["members"]:
                    member[1] = 0 if member[0] == asked["user"] and returned["data"]["read"] else member[1]


def changes_lack_the_first(found: Records) -> None:
    for asked, returned in found.done("list_changes"):
        for row in returned["data"]["rows"]:
            last = found.rows(asked["args"]["chat_id"], row[SEQ])
            if last and last[0][VERSION] == row[VERSION]:
                returned["data"]["rows"].remove(row)
                return


def sync_is_refused(found: Records) -> None:
    _, returned = found.pick(found.done("list_changes"))
    returned.update(outcome="failed", status=422, code="invalid_input", data={})


def kept_state_differs(found: Records) -> None:
    record = found.pick(record for record in found.of("kept") if record["state"])
    next(iter(record["state"].values()))[2] += 1


def events_stop_in_silence(found: Records) -> None:
    for conn in sorted(kept["conn"] for kept in found.of("kept")):
        events = [event for event in found.events("chats_changed") if event["conn"] == conn and event["data"]["chats"]]
        if len(events) > 10:
            found.drop(partial(_is_event_after, conn, events[-8]["t"]))
            return


def _is_event_after(conn: str, t: float, record: Json) -> bool:
    return record.get("conn") == conn and record["k"] == "event" and record["t"] > t


def window_stops_in_silence(found: Records) -> None:
    newest = {(final["user"], final["chat"]): final["version"] for final in found.of("final")}
    for conn in sorted(kept["conn"] for kept in found.of("kept")):
        events = [event for event in found.events("messages_changed") if event["conn"] == conn]
        last = events[-1] if len(events) > 1 else None
        if last is None or last["data"]["chat"] != events[-2]["data"]["chat"]:
            continue
        key = found.conns[conn]["user"], last["data"]["chat"]
        names = {
            record.get("name") for record in found.all if record.get("conn") == conn and record["t"] > events[-2]["t"]
        }
        if newest.get(key) == last["data"]["version"] and not names & {
            "activate_chat",
            "list_changes",
            "resync_required",
        }:
            found.all = [record for record in found.all if record is not last]
            return


def strangers_hear_of_each_other(found: Records) -> None:
    opened = found.pick(found.of("open"))
    found.insert(
        {
            "k": "event",
            "t": found.all[-1]["t"] - 1,
            "conn": opened["conn"],
            "name": "users_changed",
            "data": {"users": ["somebody"]},
        }
    )


def ended_session_works(found: Records) -> None:
    asked, _ = found.pick(found.done("send_message"))
    end = {"user": asked["user"], "session": "", "conn": None, "node": "a", "via": "http"}
    asked["via"] = "http"
    args = {"session_id": asked["session"]}
    t = asked["t"] - 0.001
    found.insert({"k": "invoke", "t": t, "op": -1, "name": "revoke_session", "args": args, **end})
    found.insert({"k": "return", "t": t, "op": -1, "outcome": "ok", "status": 204})


def ended_session_stays_connected(found: Records) -> None:
    opened = found.conns[found.pick(found.of("kept"))["conn"]]
    end = {"user": opened["user"], "session": "", "conn": None, "node": "a", "via": "http"}
    t = found.all[-1]["t"] - 25
    args = {"session_id": opened["session"]}
    found.insert({"k": "invoke", "t": t, "op": -1, "name": "revoke_session", "args": args, **end})
    found.insert({"k": "return", "t": t, "op": -1, "outcome": "ok", "status": 204})


def former_password_works(found: Records) -> None:
    asked, _ = found.pick(found.done("change_password"))
    t = found.all[-1]["t"] - 1
    by = {"user": asked["user"], "session": "", "conn": None, "node": "a", "via": "http"}
    data = {"user": asked["user"], "session": "new"}
    args = {"password": asked["args"]["former"]}
    found.insert({"k": "invoke", "t": t, "op": -1, "name": "login", "args": args, **by})
    found.insert({"k": "return", "t": t, "op": -1, "outcome": "ok", "status": 200, "data": data})


def login_outlives_the_change(found: Records) -> None:
    """A login with the former password that was under way during the change keeps its session."""
    change, changed = found.pick(found.done("change_password"))
    by = {"user": change["user"], "session": "", "conn": None, "node": "a", "via": "http"}
    args, data = {"password": change["args"]["former"]}, {"user": change["user"], "session": "new"}
    found.insert({"k": "invoke", "t": change["t"] - 0.01, "op": -1, "name": "login", "args": args, **by})
    found.insert({"k": "return", "t": changed["t"] + 0.01, "op": -1, "outcome": "ok", "status": 200, "data": data})
    use = {**by, "session": "new"}
    t = changed["t"] + 1
    found.insert({"k": "invoke", "t": t, "op": -2, "name": "get_me", "args": {}, **use})
    found.insert({"k": "return", "t": t, "op": -2, "outcome": "ok", "status": 200})


def crash_of_a_request(found: Records) -> None:
    found.pick(found.of("return")).update(outcome="unknown", status=500, code="internal")


def no_answer(found: Records) -> None:
    _, returned = found.pick(found.done("set_typing"))
    returned.update(outcome="unknown", status=0, code="timeout", t=returned["t"] + 60)


def verify_finds_something(found: Records) -> None:
    note = {"violation": "verify", "promise": "P1", "text": "seqs are not 1, 2, 3"}
    found.insert({"k": "note", "t": found.all[-1]["t"] - 1, **note})


SERVICE: dict[Callable[[Records], None], str] = {
    removed_member_gets_messages: "leak",
    removed_member_gets_list_entries: "leak",
    removed_member_sees_typing: "leak",
    newcomer_gets_older_message: "leak",
    newcomer_gets_older_quote: "leak",
    newcomer_reads_older_message: "leak",
    removed_member_finds_messages: "leak",
    newcomer_finds_older_message: "leak",
    deleted_message_is_found: "leak",
    removed_member_writes: "late accept",
    outsider_is_accepted: "late accept",
    outsider_reads: "access",
    outsider_learns_of_the_chat: "access",
    removal_is_not_written: "membership",
    handing_over_leaves_two_creators: "membership",
    deleted_chat_stays: "lost change",
    event_of_a_rollback: "early event",
    read_lags_behind: "not committed",
    events_out_of_order: "order",
    read_position_goes_back: "read position",
    read_position_is_lost: "read position",
    changes_lack_the_first: "changes",
    sync_is_refused: "resync",
    kept_state_differs: "snapshot",
    events_stop_in_silence: "missed",
    window_stops_in_silence: "missed",
    strangers_hear_of_each_other: "audience",
    ended_session_works: "revoked session",
    ended_session_stays_connected: "revoked session",
    former_password_works: "credential",
    login_outlives_the_change: "revoked session",
    crash_of_a_request: "server error",
    no_answer: "unanswered",
    verify_finds_something: "verify",
}
