"""What the factories make without arguments is what the service would make."""

import pytest

from chat_app.crud.chats import get_chat
from chat_app.database import Database
from chat_app.models.base import new_id
from chat_app.models.sessions import Actor
from tests.factories import (
    AttachmentFactory,
    ChatFactory,
    Factory,
    MembershipFactory,
    MessageFactory,
    UserFactory,
)
from tests.service import Make


@pytest.mark.parametrize("kind", [UserFactory, ChatFactory, MembershipFactory, MessageFactory, AttachmentFactory])
async def test_a_factory_makes_its_model_and_what_it_needs(kind: type[Factory], make: Make) -> None:
    assert isinstance(await make(kind), kind._meta.model)


async def test_chats_of_factories_have_members_messages_and_counters(database: Database, make: Make) -> None:
    async with database.transaction() as db:
        group = await ChatFactory.make(db, title="Trip")
        joined = await MembershipFactory.make(db, chat=group)
        message = await MessageFactory.make(db, chat=group, text="hello")
        shown = await get_chat(db, Actor(group.creator_id, new_id()), group.id)
    # Its creation and the joining are messages of the system.
    assert (shown.title, shown.member_count, shown.message_count) == ("Trip", 3, 3)
    assert (message.seq, message.text, message.sender_id) == (3, "hello", group.creator_id)
    assert joined.visible_from_seq == 2


async def test_a_chat_without_a_title_is_private(make: Make) -> None:
    anna, boris = await make(UserFactory), await make(UserFactory)
    chat = await make(ChatFactory, creator=anna, members=[boris], title=None)
    assert (chat.type, chat.mine.peer.id) == ("private", boris.id)
