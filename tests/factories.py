"""Users, chats, members, messages and files with which tests begin.

All but files are written by the functions that write the demo data, which call the use cases. So counters, versions and
system messages are those of the service.
"""

from collections.abc import Sequence
from typing import Any

import factory
from sqlalchemy.util import await_only

from chat_app.cli import seed
from chat_app.crud.members import add_members
from chat_app.database import Transaction
from chat_app.models import Attachment, Membership, User
from chat_app.models.base import new_id
from chat_app.models.chats import ChatRead, MembersAdd
from chat_app.models.messages import MessageRead
from chat_app.models.sessions import Actor


class Factory(factory.Factory):
    """`await UserFactory.make(db, name="Anna")`: one of these, and what it needs, in this transaction."""

    class Meta:
        abstract = True

    @classmethod
    async def make(cls, db: Transaction, **values: Any) -> Any:
        return await db.run_sync(lambda _: cls.create(db=db, **values))

    @classmethod
    def _create(cls, _model: type, *_: Any, **values: Any) -> Any:
        return await_only(cls._write(**values))

    @classmethod
    async def _write(cls, db: Transaction, **values: Any) -> Any:
        raise NotImplementedError


def _new(kind: type[Factory], up: str = "..") -> factory.SubFactory:
    """Another one, unless one is given."""
    return factory.SubFactory(kind, db=factory.SelfAttribute(f"{up}db"))


class UserFactory(Factory):
    """A user with a unique phone number."""

    class Meta:
        model = User

    phone = factory.Sequence(lambda number: f"+7916{number:07d}")
    name = factory.Faker("name")

    @classmethod
    async def _write(cls, db: Transaction, **values: Any) -> User:
        return await seed.add_user(db, **values)


class ChatFactory(Factory):
    """A group of a creator and members. With the title None: the private chat of the two."""

    class Meta:
        model = ChatRead

    creator = _new(UserFactory)
    members = factory.List([_new(UserFactory, up="...")])
    title = factory.Faker("sentence", nb_words=3)

    @classmethod
    async def _write(
        cls, db: Transaction, creator: User | Actor, members: Sequence[User | Actor], title: str | None
    ) -> ChatRead:
        return await seed.add_chat(db, creator.id, [member.id for member in members], title)


class MembershipFactory(Factory):
    """A member who joined a group after its creation."""

    class Meta:
        model = Membership

    chat = _new(ChatFactory)
    user = _new(UserFactory)

    @classmethod
    async def _write(cls, db: Transaction, chat: ChatRead, user: User | Actor) -> Membership:
        assert chat.creator_id, "only groups have members who join"
        creator = Actor(chat.creator_id, new_id())
        await add_members(db, creator, chat.id, MembersAdd(user_ids=[user.id]))
        return await db.get_one(Membership, (chat.id, user.id))


class MessageFactory(Factory):
    """A text. By its creator, if the chat is a group and no sender is given."""

    class Meta:
        model = MessageRead

    chat = _new(ChatFactory)
    sender_id = factory.SelfAttribute("chat.creator_id")
    text = factory.Faker("sentence")

    @classmethod
    async def _write(cls, db: Transaction, chat: ChatRead, **fields: Any) -> MessageRead:
        return await seed.add_message(db, chat.id, **fields)


class AttachmentFactory(Factory):
    """An attachment that no message has yet, without its file."""

    class Meta:
        model = Attachment

    owner = _new(UserFactory)
    name = factory.Faker("file_name", extension="pdf")
    content_type = "application/pdf"
    size = 9
    key = factory.Sequence(lambda number: f"attachments/none/{number}")

    @classmethod
    async def _write(cls, db: Transaction, owner: User | Actor, **values: Any) -> Attachment:
        attachment = Attachment(owner_id=owner.id, **values)
        db.add(attachment)
        await db.flush()
        return attachment
