"""The end of a run: everybody catches up, compares what they kept with what they read anew, and reads everything."""

import asyncio
from typing import Any

from tests.chaos import history, nodes
from tests.chaos.calls import Answer
from tests.chaos.clients import Client
from tests.chaos.history import Json, Row
from tests.chaos.nodes import Node
from tests.chaos.stage import Stage
from tests.client_model import ClientModel

CATCH_UP_SECONDS = 60.0
# Long enough for `resync_required` from other nodes, and for what is on its way.
QUIET_SECONDS = 6.0
PAGE = 100
AT_ONCE = 8


async def read_everything(staged: Stage) -> None:
    """After the last fault: until nothing is on its way any more, then all of it."""
    await asyncio.sleep(QUIET_SECONDS)
    for client in staged.clients:
        try:
            await asyncio.wait_for(client.is_caught_up.wait(), CATCH_UP_SECONDS)
        except TimeoutError:
            text = f"{client.name} could not catch up within {CATCH_UP_SECONDS:.0f} s after the last fault"
            staged.recorder.write("note", violation="recovery", promise="P23", text=text)
    await asyncio.gather(*(_compare(client) for client in staged.clients))
    readers = {client.person.id: client for client in staged.clients}
    likes = _Likes()
    slots = asyncio.Semaphore(AT_ONCE)
    for node in staged.nodes:
        await asyncio.gather(*(_read(client, node, likes, slots) for client in readers.values()))


async def _compare(client: Client) -> None:
    """Record what the client kept, and what it reads anew over the same connection."""
    if client.socket is None:
        return
    conn, window = client.conn, client.model.open_chat_id
    client.recorder.write("kept", conn=conn, state=_state(client.model))
    fresh = ClientModel(client.person.id)
    pages: list[Json] = []
    while not pages or pages[-1]["next_cursor"]:
        cursor = {"cursor": pages[-1]["next_cursor"]} if pages else {}
        answer = await client.over_socket("list_chats", {"limit": 100} | cursor)
        if not answer.ok:
            return
        pages.append(answer.data)
    fresh.read_list(pages)
    if window:
        answer = await client.over_socket("activate_chat", {"chat_id": window})
        if answer.ok:
            fresh.open(answer.data)
    counted = pages[0].get("unread", fresh.count_unread())  # an earlier version has none
    client.recorder.write("fresh", conn=conn, state=_state(fresh) | {"unread": counted})


def _state(model: ClientModel) -> Json:
    """The list and the window, but for other people's profiles."""
    chats = model.list_state()
    for chat in chats.values():
        if chat["mine"] and chat["mine"].get("peer"):
            chat["mine"] = chat["mine"] | {"peer": chat["mine"]["peer"]["id"]}
    unread = model.count_unread()
    return {"chats": chats, "order": list(chats), "window": model.window_state(), "unread": unread}


class _Likes:
    """Who likes what and reacted with what: read once for each chat, by the first who sees enough of it."""

    def __init__(self) -> None:
        self.first_seen: dict[str, int] = {}

    def is_needed(self, chat_id: str, visible_from: int) -> bool:
        known = self.first_seen.get(chat_id)
        self.first_seen[chat_id] = visible_from if known is None else min(known, visible_from)
        return known is None or visible_from < known


async def _read(client: Client, node: Node, likes: _Likes, slots: asyncio.Semaphore) -> None:
    async with slots:
        chats: list[Json] = []
        cursor: str | None = None
        while cursor is not None or not chats:
            answer = await _ask(client, node, "list_chats", limit=PAGE, **({"cursor": cursor} if cursor else {}))
            if not answer.ok:
                return
            chats += answer.data["items"]
            cursor = answer.data["next_cursor"]
            if not cursor:
                break
        ids = [chat["id"] for chat in chats]
        client.recorder.write("list", node=node.name, user=client.person.id, chats=ids)
        for chat in chats:
            await _read_chat(client, node, chat, likes)


async def _read_chat(client: Client, node: Node, chat: Json, likes: _Likes) -> None:
    mine = chat["mine"]
    first = mine["visible_from_seq"]
    rows: list[Row] = []
    pages: list[str] = []
    start = first - 1
    while start < chat["message_count"]:
        # Pages that begin at the same places for all are the same for all.
        limit = PAGE - start % PAGE
        page = await _ask(client, node, "list_messages", chat_id=chat["id"], after=start, limit=limit)
        if not page.ok:
            return
        found = history.rows(page.data["items"])
        pages.append(client.recorder.page(found))
        rows += found
        start += limit
    members = await _ask(client, node, "list_members", chat_id=chat["id"])
    if not members.ok:
        return
    positions = sorted([member["user_id"], member["last_read_seq"]] for member in members.data["items"])
    fields: dict[str, Any] = {name: chat[name] for name in ("type", "version", "message_count", "member_count")}
    fields["creators"] = [member["user_id"] for member in members.data["items"] if member["is_creator"]]
    fields |= {"visible_from": first, "members": positions, "peer": mine["peer"] and mine["peer"]["id"], "likes": None}
    fields["reactions"] = None
    if likes.is_needed(chat["id"], first):
        fields["likes"] = await _read_likes(client, node, chat["id"], rows)
        fields["reactions"] = await _read_reactions(client, node, chat["id"], rows)
    client.recorder.write("final", node=node.name, user=client.person.id, chat=chat["id"], pages=pages, **fields)


async def _read_likes(client: Client, node: Node, chat_id: str, rows: list[Row]) -> dict[str, list[str]]:
    likes: dict[str, list[str]] = {}
    for row in rows:
        if row.like_count:
            answer = await _ask(client, node, "list_likes", chat_id=chat_id, seq=row.seq, limit=PAGE)
            likes[str(row.seq)] = [user["id"] for user in answer.data["items"]] if answer.ok else []
    return likes


async def _read_reactions(client: Client, node: Node, chat_id: str, rows: list[Row]) -> dict[str, list[str]]:
    """By seq: each reaction as "user emoji"."""
    reactions: dict[str, list[str]] = {}
    for row in rows:
        if row.reactions:
            answer = await _ask(client, node, "list_reactions", chat_id=chat_id, seq=row.seq, limit=PAGE)
            items = answer.data["items"] if answer.ok else []
            reactions[str(row.seq)] = [f"{item['user']['id']} {item['emoji']}" for item in items]
    return reactions


async def _ask(client: Client, node: Node, name: str, **args: Any) -> Answer:
    """Over HTTP, and once more with another token if this one is of no use any more."""
    answer = await client.over_http(name, args, node=node)
    for _ in range(3):
        if answer.ok:
            break
        await client.renew(answer.code)
        answer = await client.over_http(name, args, node=node)
    return answer


async def verify(staged: Stage) -> None:
    """What the service's own inspection of rows and files finds."""
    status, output = await nodes.command(staged.nodes[0].environment, "verify")
    for line in output.splitlines()[:20] if status else ():
        staged.recorder.write("note", violation="verify", promise="P1", text=line)
