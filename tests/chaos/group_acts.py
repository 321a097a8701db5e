"""What the clients of a run do with the profile and the creator of a group."""

import asyncio
import base64

from tests.chaos.acts import PICTURE
from tests.chaos.world import Turn, part


@part(2)
async def update_group(turn: Turn) -> None:
    """By the creator, mostly."""
    entry = turn.entry(mine=turn.random.random() < 0.95, group=True)
    fields = {"title": f"group {turn.random.getrandbits(16)}"}
    if turn.random.random() < 0.5:
        fields["description"] = f"about {turn.random.getrandbits(16)}"
    await turn.do("update_group", entry and {"chat_id": entry.shared["id"], **fields})


@part(0.3)
async def set_group_avatar(turn: Turn) -> None:
    entry = turn.entry(mine=True, group=True)
    if entry is not None:
        recorded = {"chat_id": entry.shared["id"]}
        args = recorded | {"image": base64.b64encode(PICTURE).decode()}
        await turn.client.over_http("set_group_avatar", args, recorded=recorded)


@part(0.2)
async def delete_group_avatar(turn: Turn) -> None:
    entry = turn.entry(mine=True, group=True)
    await turn.do("delete_group_avatar", entry and {"chat_id": entry.shared["id"]})


@part(2)
async def set_creator(turn: Turn) -> None:
    """To a founder who never left; sometimes twice at once."""
    entry = turn.entry(mine=turn.random.random() < 0.95, group=True)
    if entry is None:
        return
    me, chat_id = turn.client.person.id, entry.shared["id"]
    known = sorted(turn.world.founders[chat_id] - {me})
    args = [{"chat_id": chat_id, "user_id": user_id} for user_id in turn.random.sample(known, min(2, len(known)))]
    await asyncio.gather(*(turn.do("set_creator", each) for each in args[: turn.random.choice([1, 1, 2])]))
