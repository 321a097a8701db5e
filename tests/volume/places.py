"""What the rows of a chat show of its removals: who sent a message where they were no member. Pure."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

ENDS = {"member_removed", "member_left"}


def misplaced(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The messages between a removal and the next joining of their senders, in words.

    `rows` of the table of messages, in the order of chat and seq.
    """
    found, removed_at = [], defaultdict[Any, dict[str, int]](dict)
    for row in rows:
        away, seq = removed_at[row["chat_id"]], row["seq"]
        if row["type"] != "system":
            since = away.get(str(row["sender_id"]))
            if since is not None:
                found.append(f"P17 message {seq} of chat {row['chat_id']} is of a member removed at {since}")
            continue
        system = json.loads(row["payload"])
        for user_id in system["user_ids"]:
            if system["event"] in ENDS:
                away[user_id] = seq
            elif system["event"] == "members_added":
                away.pop(user_id, None)
    return found
