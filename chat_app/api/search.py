"""Finding messages in all chats, and the gallery of one."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import StringConstraints

from chat_app.api.deps import CurrentActor, Limit, ReadingDep
from chat_app.api.operations import Operation
from chat_app.crud import search
from chat_app.models.base import LIMITS, NO_NUL, SearchCursor
from chat_app.models.messages import MessageType
from chat_app.models.screens import FoundMessages

router = APIRouter(prefix="/messages", tags=["messages"], route_class=Operation)

Words = Annotated[str, StringConstraints(min_length=2, max_length=100, pattern=NO_NUL)]
Types = Annotated[
    list[MessageType] | None, Query(min_length=1, max_length=LIMITS["page"], description="Needs `chat_id`.")
]


@router.get("")
async def search_messages(
    db: ReadingDep,
    actor: CurrentActor,
    query: Annotated[Words | None, Query(description="Words; of the last one the beginning is enough.")] = None,
    chat_id: Annotated[UUID | None, Query(description="Only in this chat.")] = None,
    sender_id: Annotated[UUID | None, Query(description="Only messages of this user.")] = None,
    types: Types = None,
    cursor: Annotated[SearchCursor | None, Query(description="The `next_cursor` of the page before.")] = None,
    limit: Limit = 50,
) -> FoundMessages:
    """Find messages that have all words of `query`, in any case; the newest come first.

    With `types` and `chat_id` alone you get all messages of these types, for a gallery. You find what you can see:
    no deleted messages and no system messages. A chat that is not yours has no results. A page of a very common word
    may have few items and a `next_cursor`: ask for the next page.
    """
    return await search.search_messages(db, actor, query, chat_id, sender_id, types, cursor, limit)
