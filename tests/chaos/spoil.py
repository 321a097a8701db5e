"""Faults planted in a valid history: each function changes a few records, as a service with that fault would have."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

from tests.chaos.history import Json

SEQ, VERSION, SENDER, CLIENT_ID, TYPE, CONTENT, LIKES, DELETED, REACTIONS, PINNED, AUTHOR = range(11)


class Records:
    """The records of a history, to be looked through and changed."""

    def __init__(self, records: list[Json], seed: int) -> None:
        self.all = records
        self.random = Random(seed)
        self.invokes = {record["op"]: record for record in self.of("invoke")}
        self.returns = {record["op"]: record for record in self.of("return")}
        self.conns = {record["conn"]: record for record in self.of("open")}
        self.present = {final["chat"] for final in self.of("final")}
        self.read: dict[tuple[str, int], list[list[Any]]] = defaultdict(list)
        pages = {page["id"]: page["rows"] for page in self.of("page")}
        for chat, page in sorted({(final["chat"], page) for final in self.of("final") for page in final["pages"]}):
            for row in pages[page]:
                self.read[chat, row[SEQ]].append(row)

    def of(self, kind: str) -> Iterator[Json]:
        return (record for record in self.all if record["k"] == kind)

    def pick(self, found: Iterator[Any]) -> Any:
        return self.random.choice(list(found))

    def done(self, *names: str, outcome: str = "ok", status: int | None = None) -> Iterator[tuple[Json, Json]]:
        """Requests of these names with their answers, of chats that are there at the end where they have one."""
        for op, returned in self.returns.items():
            asked = self.invokes[op]
            if asked["name"] in names and returned["outcome"] == outcome and status in (None, returned.get("status")):
                chat = asked["args"].get("chat_id")
                if chat is None or chat in self.present:
                    yield asked, returned

    def rows(self, chat: str, seq: int) -> list[list[Any]]:
        """A message wherever it was read at the end."""
        return self.read[chat, seq]

    def sent(self) -> Iterator[tuple[Json, Json, list[list[Any]]]]:
        """New messages that were acknowledged, and that nobody changed."""
        for asked, returned in self.done("send_message", status=201):
            rows = self.rows(asked["args"]["chat_id"], returned["data"]["row"][SEQ])
            if rows and rows[0] == returned["data"]["row"]:
                yield asked, returned, rows

    def drop(self, condition: Callable[[Json], bool]) -> None:
        self.all = [record for record in self.all if not condition(record)]

    def insert(self, record: Json) -> None:
        """Put a record at the place of its time."""
        place = next(number for number, other in enumerate(self.all) if other["t"] > record["t"])
        self.all.insert(place, record)

    def follow(self, record: Json, new: Json) -> None:
        """Put a record behind another."""
        place = next(number for number, other in enumerate(self.all) if other is record)
        self.all.insert(place + 1, new)

    def removals(self) -> Iterator[tuple[Json, Json]]:
        """Removals that were acknowledged, of somebody who did not come back."""
        for asked, returned in self.done("remove_member", status=204):
            args = asked["args"]
            is_back = any(
                args["user_id"] in other["args"]["user_ids"]
                for other in self.of("invoke")
                if other["name"] == "add_members"
                and other["args"]["chat_id"] == args["chat_id"]
                and self.returns[other["op"]]["t"] > asked["t"]
            )
            if not is_back:
                yield asked, returned

    def events(self, name: str) -> Iterator[Json]:
        return (record for record in self.of("event") if record["name"] == name)


def lost_message(found: Records) -> None:
    asked, returned, _ = found.pick(found.sent())
    seq, chat = returned["data"]["row"][SEQ], asked["args"]["chat_id"]
    for row in found.rows(chat, seq):
        row[CLIENT_ID], row[CONTENT] = None, "another"


def lost_edit(found: Records) -> None:
    sent = {other["args"].get("client_id"): other["args"].get("content") for other in found.of("invoke")}
    for asked, _ in found.done("edit_message"):
        rows = found.rows(asked["args"]["chat_id"], asked["args"]["seq"])
        if rows and rows[0][CONTENT] == asked["args"]["text"]:
            for row in rows:
                row[CONTENT] = sent[row[CLIENT_ID]]
            return


def lost_deletion(found: Records) -> None:
    asked, _ = found.pick(found.done("delete_message"))
    for row in found.rows(asked["args"]["chat_id"], asked["args"]["seq"]):
        row[DELETED] = 0


def lost_like(found: Records) -> None:
    likes = {(final["chat"], seq): users for final in found.of("final") for seq, users in final["likes"].items()}
    liked = {(asked["args"]["chat_id"], asked["args"]["seq"], asked["user"]) for asked, _ in found.done("like_message")}
    for chat, seq, user in sorted(liked):
        if user in likes.get((chat, str(seq)), ()):
            for final in found.of("final"):
                if final["chat"] == chat and str(seq) in final["likes"]:
                    final["likes"][str(seq)] = [other for other in final["likes"][str(seq)] if other != user]
            for row in found.rows(chat, seq):
                row[LIKES] -= 1


def lost_reaction(found: Records) -> None:
    """The last of a user's reactions to a message is neither listed nor counted."""
    asked = {(one["args"]["chat_id"], one["args"]["seq"], one["user"]) for one, _ in found.done("react")}
    for chat, seq, user in sorted(asked):
        for final in found.of("final"):
            if final["chat"] == chat and f"{user} 👍" in final["reactions"].get(str(seq), ()):
                final["reactions"][str(seq)].remove(f"{user} 👍")
                for row in found.rows(chat, seq):
                    row[REACTIONS] = f"👍 {len(final['reactions'][str(seq)])}".removesuffix("👍 0")


def wrong_reaction_count(found: Records) -> None:
    rows = found.pick(rows for _, _, rows in found.sent() if not rows[0][REACTIONS])
    for row in rows:
        row[REACTIONS] = "👍 1"


def lost_pin(found: Records) -> None:
    for asked, _ in found.done("pin_message"):
        for row in found.rows(asked["args"]["chat_id"], asked["args"]["seq"]):
            row[PINNED] = 0


def forward_of_another_author(found: Records) -> None:
    for row in (row for rows in found.read.values() for row in rows if row[AUTHOR]):
        row[AUTHOR] = "somebody else"


def wrong_like_count(found: Records) -> None:
    _, _, rows = found.pick(found.sent())
    for row in rows:
        row[LIKES] += 1


def wrong_member_count(found: Records) -> None:
    chat = found.pick(found.of("final"))["chat"]
    for final in found.of("final"):
        final["member_count"] += final["chat"] == chat


def phantom_message(found: Records) -> None:
    _, _, rows = found.pick(found.sent())
    for row in rows:
        row[CLIENT_ID] = "of nobody"


def phantom_content(found: Records) -> None:
    _, _, rows = found.pick(found.sent())
    for row in rows:
        row[CONTENT] = "what nobody wrote"


def doubled_message(found: Records) -> None:
    for first, _, rows in found.sent():
        for second, _, others in found.sent():
            if (first["user"], first["args"]["chat_id"]) == (
                second["user"],
                second["args"]["chat_id"],
            ) and first != second:
                for row in others:
                    row[CLIENT_ID] = rows[0][CLIENT_ID]
                return


def doubled_by_retry(found: Records) -> None:
    _, returned = found.pick(found.done("send_message", status=200))
    returned["data"]["row"][SEQ] += 1


def reused_client_id(found: Records) -> None:
    first = {asked["args"]["client_id"]: returned for asked, returned in found.done("send_message", status=201)}
    for asked, returned in found.done("send_message", outcome="failed"):
        if returned["code"] == "client_id_reused" and asked["args"]["client_id"] in first:
            data = deepcopy(first[asked["args"]["client_id"]]["data"])
            returned.update(outcome="ok", status=200, data=data)
            return


def zombie(found: Records) -> None:
    asked, _, _ = found.pick(found.sent())
    for other in found.of("invoke"):
        if other["args"].get("client_id") == asked["args"]["client_id"]:
            found.returns[other["op"]].update(outcome="failed", status=404, code="chat_not_found", data={})


def hole_for_one(found: Records) -> None:
    final = found.pick(final for final in found.of("final") if final["message_count"] > final["visible_from"] + 3)
    page = next(page for page in found.of("page") if page["id"] == final["pages"][-1])
    found.follow(page, {**page, "id": "with a hole", "rows": page["rows"][:-2] + page["rows"][-1:]})
    final["pages"] = [*final["pages"][:-1], "with a hole"]


def seqs_against_acknowledgements(found: Records) -> None:
    for first, early, _ in found.sent():
        for second, late, _ in found.sent():
            if first["args"]["chat_id"] == second["args"]["chat_id"] and early["t"] < second["t"]:
                _swap(found, first, early, second, late)
                return


def seqs_against_the_connection(found: Records) -> None:
    for first, early, _ in found.sent():
        for second, late, _ in found.sent():
            is_one = first["args"]["chat_id"] == second["args"]["chat_id"] and first["user"] == second["user"]
            if is_one and first["conn"] and first["conn"] == second["conn"] and first["t"] < second["t"] < early["t"]:
                _swap(found, first, early, second, late)
                return


def _swap(found: Records, first: Json, early: Json, second: Json, late: Json) -> None:
    """Two messages change their places."""
    chat = first["args"]["chat_id"]
    one, other = early["data"]["row"], late["data"]["row"]
    for place, message in ((one[SEQ], other), (other[SEQ], one)):
        for row in found.rows(chat, place):
            row[SENDER:] = message[SENDER:]
    one[:SENDER], other[:SENDER] = other[:SENDER], one[:SENDER]


def other_text_for_one(found: Records) -> None:
    final = found.pick(final for final in found.of("final") if final["message_count"] > final["visible_from"] + 3)
    page = next(page for page in found.of("page") if page["id"] == final["pages"][-1])
    changed = deepcopy(page["rows"])
    changed[-1][CONTENT] = "only here"
    found.follow(page, {**page, "id": "only here", "rows": changed})
    final["pages"] = [*final["pages"][:-1], "only here"]


def other_count_on_one_node(found: Records) -> None:
    found.pick(final for final in found.of("final") if final["member_count"] > 2)["version"] -= 1


def one_version_twice(found: Records) -> None:
    chat = found.pick(final for final in found.of("final") if final["message_count"] > 5)["chat"]
    version = found.rows(chat, 5)[0][VERSION]
    for row in found.rows(chat, 4):
        row[VERSION] = version


def two_private_chats(found: Records) -> None:
    private = {final["chat"] for final in found.of("final") if final["type"] == "private"}
    opened = (both for both in found.done("open_private_chat") if both[1]["data"]["chat"] in private)
    asked, returned = found.pick(opened)
    found.insert({**asked, "op": -1})
    found.insert({**returned, "op": -1, "data": {**returned["data"], "chat": "another"}})


MESSAGES: dict[Callable[[Records], None], str] = {
    lost_message: "lost",
    lost_edit: "lost change",
    lost_deletion: "lost change",
    lost_like: "like",
    lost_reaction: "reaction",
    lost_pin: "pin",
    wrong_like_count: "counter",
    wrong_reaction_count: "counter",
    forward_of_another_author: "phantom",
    wrong_member_count: "counter",
    phantom_message: "phantom",
    phantom_content: "phantom",
    doubled_message: "duplicate",
    doubled_by_retry: "duplicate",
    reused_client_id: "reused client_id",
    zombie: "zombie",
    hole_for_one: "gap",
    seqs_against_acknowledgements: "inversion",
    seqs_against_the_connection: "inversion",
    other_text_for_one: "divergence",
    other_count_on_one_node: "divergence",
    one_version_twice: "version",
    two_private_chats: "private pair",
}
