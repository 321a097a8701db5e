"""What the clients of a run put on messages: likes, reactions and pins."""

from tests.chaos.world import Turn, part

EMOJIS = ("👍", "❤️", "🎉", "🔥", "😂")


@part(8)
async def like_message(turn: Turn) -> None:
    await turn.do("like_message", turn.message(own=False))


@part(5)
async def unlike_message(turn: Turn) -> None:
    await turn.do("unlike_message", turn.message(own=False))


@part(8)
async def react(turn: Turn) -> None:
    """With few kinds, so that several choose the same, and sometimes one too many."""
    args = turn.message(own=False)
    await turn.do("react", args and args | {"emoji": turn.random.choice(EMOJIS)})


@part(5)
async def unreact(turn: Turn) -> None:
    args = turn.message(own=False)
    await turn.do("unreact", args and args | {"emoji": turn.random.choice(EMOJIS)})


@part(3)
async def pin_message(turn: Turn) -> None:
    await turn.do("pin_message", turn.message(own=False))


@part(2)
async def unpin_message(turn: Turn) -> None:
    await turn.do("unpin_message", turn.message(own=False))
