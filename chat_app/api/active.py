"""The active chat of a session. Over Socket.IO the active chat is the connection's: see `live/commands.py`.

Included before `chats`: its `/chats/{chat_id}` matches /chats/active too.
"""

from contextlib import suppress
from typing import Any

from fastapi import APIRouter

from chat_app.api.deps import Bound, CurrentActor, Limit, NodeDep, SessionDep, TimeBound
from chat_app.api.messages import SEND_ERRORS, NewMessage
from chat_app.api.operations import Operation
from chat_app.api.problems import responses
from chat_app.crud import chats, history
from chat_app.crud.messages import Draft
from chat_app.errors import ChatNotFound, NoActiveChat, Unavailable
from chat_app.models.answers import Created
from chat_app.models.chats import ActiveChat
from chat_app.models.messages import MessagePage, MessageRead
from chat_app.models.screens import OpenChat

router = APIRouter(prefix="/chats/active", route_class=Operation)


@router.get("", tags=["chats"], responses=responses(NoActiveChat))
async def get_active_chat(db: SessionDep, actor: CurrentActor) -> OpenChat:
    """Get the active chat of your session: all that a screen needs."""
    return await chats.open_chat(db, actor, await chats.active_chat(db, actor))


@router.put("", tags=["chats"], responses=responses(ChatNotFound))
async def activate_chat(node: NodeDep, actor: CurrentActor, data: ActiveChat) -> OpenChat:
    """Make a chat the active one of your session. Connections that never set their own follow."""
    async with node.database.transaction() as db:
        version = await chats.activate_chat(db, actor, data.chat_id)
        screen = await chats.open_chat(db, actor, data.chat_id)
    # Read again after the connections follow, so that nothing is missed. Without a database the first reading holds.
    with suppress(Unavailable):
        async with node.database.reading() as reading:
            screen = await chats.open_chat(reading, actor, data.chat_id)
            await chats.check_is_open(reading, actor, data.chat_id, version)
    return screen


@router.delete("", tags=["chats"])
async def clear_active_chat(db: SessionDep, actor: CurrentActor) -> None:
    """Close the active chat of your session: none is active any more."""
    await chats.clear_active(db, actor)


@router.get("/messages", tags=["messages"], responses=responses(NoActiveChat))
async def list_active_messages(
    db: SessionDep,
    actor: CurrentActor,
    before: Bound = None,
    after: Bound = None,
    around: Bound = None,
    around_time: TimeBound = None,
    limit: Limit = 50,
) -> MessagePage:
    """List messages of the active chat; otherwise as `list_messages`."""
    chat_id = await chats.active_chat(db, actor)
    bounds: Any = {"before": before, "after": after, "around": around, "around_time": around_time}
    return await history.list_messages(db, actor, chat_id, **bounds, limit=limit)


@router.post("/messages", tags=["messages"], responses=responses(ChatNotFound, NoActiveChat, *SEND_ERRORS))
async def send_active_message(node: NodeDep, actor: CurrentActor, data: NewMessage) -> Created[MessageRead]:
    """Send a message to the active chat; otherwise as `send_message`."""
    async with node.database.transaction() as db:
        chat_id = await chats.active_chat(db, actor)
    return Created[Any](*await node.outbox.send(Draft(actor, chat_id, data)))
