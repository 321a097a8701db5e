"""Rule 11: what one process makes leaves in the order of its versions, also when the database's answers come late."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event
from sqlalchemy.util import await_only
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from chat_app.crud import chats, messages
from chat_app.crud.messages import Draft, one
from chat_app.db import Database
from chat_app.models import Membership, User
from chat_app.models.base import new_id
from chat_app.models.messages import TextCreate
from chat_app.models.sessions import Actor
from chat_app.settings import Settings

Change = Callable[[AsyncSession, Actor, UUID], Awaitable[object]]


async def pin(session: AsyncSession, actor: Actor, chat_id: UUID) -> None:
    await chats.pin_chat(session, actor, chat_id)


async def send(session: AsyncSession, actor: Actor, chat_id: UUID) -> None:
    data = TextCreate(type="text", text="hello", client_id=uuid4())
    one(await messages.send_messages(session, [Draft(actor, chat_id, data)]))
