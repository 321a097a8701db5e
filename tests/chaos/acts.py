"""What the clients of a run do: a part for every operation of the service that changes something.

A part chooses arguments with which the operation has a chance, and now and then such that it must be refused.
"""

import asyncio
import base64

from tests.chaos import history
from tests.chaos.calls import TOKEN_ENDED
from tests.chaos.clients import Client
from tests.chaos.history import Json
from tests.chaos.world import Turn, part
from tests.media import pictures

MOST_MEMBERS, LEAST_MEMBERS = 12, 4
SEND_TRIES = 60
LONGEST_PAUSE = 16
# After so many of the acknowledgements, or bursts, another node is asked for the chat.
READ_BACK_SHARE = 0.1
PICTURE = pictures.encoded(pictures.corners(), "PNG")
FORM = "multipart/form-data; boundary=chaos"
# By the type of message, the content type of a file that can go as one.
FILES = {
    "image": "image/png",
    "video": "video/mp4",
    "audio": "audio/mpeg",
    "voice": "audio/ogg",
    "file": "text/plain",
}


def draft(turn: Turn) -> Json:
    """A new message: a text, mostly."""
    kind = turn.random.random()
    words = f"{turn.client.name} {turn.random.getrandbits(32):08x}"
    client_id = turn.new_id()
    if kind < 0.92:
        return {"type": "text", "text": words, "client_id": client_id}
    if kind < 0.94 and not turn.world.has_earlier:
        return {"type": "custom", "extra": {"words": [words]}, "text": words, "client_id": client_id}
    if kind < 0.97:
        return {"type": "location", "latitude": 43.5, "longitude": 39.25, "text": words, "client_id": client_id}
    return {"type": "contact", "name": words, "phone": "+7 916 000-00-00", "client_id": client_id}


def forward(turn: Turn, original: Json) -> Json:
    """A message that forwards another one, of any chat and type."""
    source = {"from_chat_id": original["chat_id"], "from_seq": original["seq"], "extra": {"forwarded": True}}
    return {"type": "forward", "client_id": turn.new_id()} | source


async def send(turn: Turn, chat_id: str, message: Json) -> None:
    """Send, and again under the same client_id until the outcome is known, over any transport and node."""
    client, args = turn.client, {"chat_id": chat_id} | message
    recorded = {"chat_id": chat_id, "client_id": message["client_id"], "content": history.content(message)}
    by_socket = turn.by_socket
    for tries in range(SEND_TRIES):
        token = client.token
        if by_socket and client.socket is not None:
            answer = await client.over_socket("send_message", args, recorded=recorded)
        else:
            answer = await client.over_http("send_message", args, recorded=recorded)
        if answer.code in TOKEN_ENDED and client.token == token:
            await client.renew(answer.code)
        elif answer.code not in TOKEN_ENDED and (answer.outcome != "unknown" or turn.world.is_over):
            break
        # Bursts come back more and more slowly: an outage is no reason to flood.
        await pause(turn, min(2**tries, LONGEST_PAUSE) if turn.world.burst else 1)
        by_socket = turn.random.random() < 0.5
        client.node = client.node if client.socket else turn.random.choice(client.nodes)
    if answer.ok:
        turn.world.recent[chat_id].append((answer.data["seq"], client.person.id, message["client_id"]))
        if turn.random.random() < READ_BACK_SHARE / max(1, turn.world.burst):
            await client.over_http("get_chat", {"chat_id": chat_id}, node=turn.random.choice(turn.world.nodes))


async def pause(turn: Turn, factor: float = 1.0) -> None:
    await asyncio.sleep(factor * (0.1 + 0.4 * turn.random.random()))


@part(50)
async def send_message(turn: Turn) -> None:
    """One, or several without waiting; now and then other content under a client_id that was used."""
    chat_id = turn.chat_id()
    if chat_id is None:
        return
    usual = turn.random.choice([1, 1, 1, 2, 4])
    drafts = [draft(turn) for _ in range(turn.world.burst or usual)]
    used = [client_id for _, sender, client_id in turn.world.recent[chat_id] if sender == turn.client.person.id]
    if used and turn.random.random() < 0.02:
        drafts = [drafts[0] | {"client_id": turn.random.choice(used)}]
    recent = turn.world.recent[chat_id]
    if recent and turn.random.random() < 0.05:
        drafts[0]["reply_to"] = recent[-1][0]
    elif (original := turn.message(own=False)) and turn.random.random() < 0.05:
        drafts[0] = forward(turn, original)
    if turn.by_socket or turn.world.burst:
        await asyncio.gather(*(send(turn, chat_id, message) for message in drafts))
    else:
        await send(turn, chat_id, drafts[0])


@part(4)
async def send_active_message(turn: Turn) -> None:
    """To the chat that is active for this session: the answer names it."""
    entry, message = turn.entry(), draft(turn)
    if entry and (await turn.client.over_http("activate_chat", {"chat_id": entry.shared["id"]})).ok:
        recorded = {"client_id": message["client_id"], "content": history.content(message)}
        await turn.client.over_http("send_active_message", message, recorded=recorded)


@part(8)
async def get_chat(turn: Turn) -> None:
    """Read from any node right after an event: the change must be there."""
    chat_id = await turn.client.next_change()
    if chat_id is not None:
        node = turn.random.choice(turn.world.nodes)
        await turn.client.over_http("get_chat", {"chat_id": chat_id}, node=node)


@part(4)
async def list_changes(turn: Turn) -> None:
    """Of some versions before the newest."""
    entry = turn.entry()
    since = max(0, entry.shared["version"] - turn.random.randrange(20)) if entry else 0
    await turn.do("list_changes", entry and {"chat_id": entry.shared["id"], "since": since})


@part(4)
async def search_messages(turn: Turn) -> None:
    """In one chat or in all, for what a client wrote or edited."""
    writer = turn.random.choice(turn.world.clients)
    chat_id = turn.chat_id() if turn.random.random() < 0.3 else None
    where = {"chat_id": chat_id} if chat_id else {}
    await turn.do("search_messages", where | {"query": turn.random.choice([writer.name, "edited"]), "limit": 100})


@part(6)
async def edit_message(turn: Turn) -> None:
    args = turn.message(own=True)
    edited = {"text": f"edited {turn.random.getrandbits(32):08x}"}
    edited |= {"extra": {"edited": True}} if turn.random.random() < 0.2 and not turn.world.has_earlier else {}
    await turn.do("edit_message", args and args | edited)


@part(2)
async def delete_message(turn: Turn) -> None:
    await turn.do("delete_message", turn.message(own=True))


@part(6)
async def mark_read(turn: Turn) -> None:
    entry = turn.entry()
    await turn.do("mark_read", entry and {"chat_id": entry.shared["id"], "seq": max(1, entry.shared["message_count"])})


@part(2)
async def rename_chat(turn: Turn) -> None:
    chat_id = turn.chat_id()
    title = turn.random.choice([None, f"mine {turn.random.getrandbits(16)}"])
    await turn.do("rename_chat", chat_id and {"chat_id": chat_id, "title": title})


@part(2)
async def pin_chat(turn: Turn) -> None:
    chat_id = turn.chat_id()
    await turn.do("pin_chat", chat_id and {"chat_id": chat_id})


@part(2)
async def unpin_chat(turn: Turn) -> None:
    chat_id = turn.chat_id()
    await turn.do("unpin_chat", chat_id and {"chat_id": chat_id})


@part(4)
async def update_mine(turn: Turn) -> None:
    """Mute, archive or mark a chat, or write a draft; as often take it back."""
    entry, count = turn.entry(), turn.random.getrandbits(8)
    draft = {"text": f"draft {count}", "reply_to": entry.shared["message_count"] or None if entry else None}
    field, value = turn.random.choice(
        [("muted_until", "2100-01-01T00:00:00Z"), ("archived", True), ("marked_unread", True), ("draft", draft)]
    )
    given = {field: value} if turn.random.random() < 0.5 else {"unset": [field]}
    await turn.do("update_mine", entry and {"chat_id": entry.shared["id"], **given})


@part(1)
async def clear_chat(turn: Turn) -> None:
    """Not by everybody, so that somebody can read all of a chat at the end."""
    entry, me = turn.entry(), turn.client.person.id
    mine = entry.mine if entry else None
    keeps = entry is None or mine is None or entry.shared["creator_id"] == me
    if mine and mine["peer"] and me < mine["peer"]["id"]:
        keeps = True
    if entry and not keeps:
        turn.world.founders[entry.shared["id"]].discard(me)
        await turn.do("clear_chat", {"chat_id": entry.shared["id"], "hide": turn.random.random() < 0.5})


@part(0.4)
async def create_group(turn: Turn) -> None:
    me = turn.client.person
    others = turn.random.sample([person.id for person in turn.world.people if person is not me], LEAST_MEMBERS + 2)
    args = {"title": f"group {turn.random.getrandbits(16)}", "member_ids": others, "client_id": turn.new_id()}
    answer = await turn.do("create_group", args)
    if answer and answer.ok:
        turn.world.chats.append(answer.data["id"])
        turn.world.members[answer.data["id"]] = {me.id, *others}
        turn.world.founders[answer.data["id"]] = {me.id, *others}


@part(2)
async def open_private_chat(turn: Turn) -> None:
    answer = await turn.do("open_private_chat", {"user_id": turn.somebody().id})
    if answer and answer.ok and answer.data["id"] not in turn.world.chats:
        turn.world.chats.append(answer.data["id"])


@part(5)
async def add_members(turn: Turn) -> None:
    """Sometimes somebody who is there; a private chat becomes a group, rarely."""
    entry = turn.entry(group=turn.random.random() < 0.95)
    if entry is None or entry.shared["member_count"] >= MOST_MEMBERS:
        return
    somebody, chat_id = turn.somebody().id, entry.shared["id"]
    args = {"chat_id": chat_id, "user_ids": [somebody], "share_history": turn.random.random() < 0.3}
    answer = await turn.do("add_members", args)
    if answer and answer.ok:
        turn.world.members[chat_id].add(somebody)


@part(6)
async def remove_member(turn: Turn) -> None:
    """By the creator, mostly, and often while the removed one writes, who then comes back."""
    entry = turn.entry(mine=turn.random.random() < 0.95, group=True)
    if entry is None or entry.shared["member_count"] <= LEAST_MEMBERS:
        return
    chat_id = entry.shared["id"]
    known = sorted(turn.world.members[chat_id] - {turn.client.person.id}) or [turn.somebody().id]
    gone = turn.random.choice(known)
    turn.world.founders[chat_id].discard(gone)
    removal = turn.do("remove_member", {"chat_id": chat_id, "user_id": gone})
    writer = next(client for client in turn.world.clients if client.person.id == gone)
    answer, *_ = await asyncio.gather(removal, *(_write_meanwhile(turn, writer, chat_id) for _ in range(3)))
    if answer and answer.outcome != "unknown":
        turn.world.members[chat_id].discard(gone)
    if answer and answer.ok and turn.random.random() < 0.3:
        await turn.do("add_members", {"chat_id": chat_id, "user_ids": [gone], "share_history": False})


async def _write_meanwhile(turn: Turn, writer: Client, chat_id: str) -> None:
    race = Turn(turn.world, writer, turn.random, by_socket=turn.random.random() < 0.5)
    await asyncio.sleep(0.03 * turn.random.random())
    await send(race, chat_id, draft(race))


@part(1.5)
async def leave_chat(turn: Turn) -> None:
    entry = turn.entry(group=True)
    if entry is None or entry.shared["member_count"] <= LEAST_MEMBERS:
        return
    if entry.shared["creator_id"] != turn.client.person.id:
        turn.world.founders[entry.shared["id"]].discard(turn.client.person.id)
    answer = await turn.do("leave_chat", {"chat_id": entry.shared["id"]})
    if answer and answer.ok:
        turn.world.members[entry.shared["id"]].discard(turn.client.person.id)


@part(0.3)
async def delete_chat(turn: Turn) -> None:
    """One's own group, or a new one that others have begun to write into."""
    entry = turn.entry(mine=True, group=True)
    if entry is None or turn.random.random() < 0.7:
        others = [person.id for person in turn.world.people if person is not turn.client.person][:LEAST_MEMBERS]
        answer = await turn.do("create_group", {"title": "For a moment", "member_ids": others})
        await pause(turn)
        await turn.do("delete_chat", {"chat_id": answer.data["id"]} if answer and answer.ok else None)
    else:
        await turn.do("delete_chat", {"chat_id": entry.shared["id"]})


@part(6)
async def activate_chat(turn: Turn) -> None:
    entry = turn.entry()
    if entry is not None and turn.client.socket is not None:
        await turn.client.activate(entry.shared["id"])


@part(0.5)
async def clear_active_chat(turn: Turn) -> None:
    """Over HTTP; connections that never chose a chat follow, the others don't."""
    await turn.client.over_http("clear_active_chat", {})


@part(4)
async def set_typing(turn: Turn) -> None:
    chat_id = turn.chat_id()
    await turn.do("set_typing", chat_id and {"chat_id": chat_id, "typing": True})


@part(1)
async def update_me(turn: Turn) -> None:
    await turn.do("update_me", {"bio": f"bio {turn.random.getrandbits(16)}", "name": turn.client.person.phone[-4:]})


@part(0.3)
async def set_avatar(turn: Turn) -> None:
    await turn.client.over_http("set_avatar", {"image": base64.b64encode(PICTURE).decode()}, recorded={})


@part(0.2)
async def delete_avatar(turn: Turn) -> None:
    await turn.do("delete_avatar", {})


@part(0.8)
async def create_attachment(turn: Turn) -> None:
    """Upload a file, and send it as a message of its type."""
    kind, content_type = turn.random.choice(list(FILES.items()))
    data = PICTURE if kind == "image" else turn.new_id().encode()
    head = 'form-data; name="file"; filename="a.bin"'
    body = b"--chaos\r\nContent-Disposition: %b\r\nContent-Type: %b\r\n\r\n%b\r\n--chaos--\r\n"
    body %= (head.encode(), content_type.encode(), data)
    answer = await turn.client.over_http("create_attachment", {}, body=body, content_type=FORM)
    entry = turn.entry()
    if answer.ok and entry is not None:
        message = {"type": kind, "attachment_id": answer.data["id"], "client_id": turn.new_id()}
        await send(turn, entry.shared["id"], message)
