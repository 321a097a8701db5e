"""The reference for a page of history: rows of the ORM through a response model, and nothing else."""

import os
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from chat_app.models import Message

engine = create_async_engine(os.environ["CHAT_DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://"))
app = FastAPI()


class MessageOut(SQLModel):
    chat_id: UUID
    seq: int
    version: int
    client_id: UUID | None
    type: str
    text: str | None
    payload: dict[str, Any] | None
    reply_to: int | None
    sender_id: UUID
    like_count: int
    sent_at: datetime
    edited_at: datetime | None
    deleted_at: datetime | None


class Page(SQLModel):
    items: list[MessageOut]


async def open_session() -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as db:
        yield db


@app.get("/api/v1/chats/{chat_id}/messages", response_model=Page)
async def list_messages(
    chat_id: UUID, db: Annotated[AsyncSession, Depends(open_session)], before: int = 2**53, limit: int = 50
) -> Any:
    rows = await db.exec(
        select(Message)
        .where(Message.chat_id == chat_id, col(Message.seq) < before)
        .order_by(col(Message.seq).desc())
        .limit(limit)
    )
    return {"items": rows.all()[::-1]}
