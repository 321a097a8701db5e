"""Rule 11: changes of one process are delivered in the order of versions, in any order of the commits' answers."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event
from sqlalchemy.util import await_only

from chat_app.crud import chats, members, messages, users
from chat_app.crud.messages import Draft, one
from chat_app.database import Database, Delivery, Transaction
from chat_app.events import Recorded
from chat_app.models.base import new_id
from chat_app.models.messages import TextCreate
from chat_app.models.sessions import Actor
from chat_app.models.users import UserUpdate
from chat_app.settings import Settings
from tests.factories import ChatFactory
from tests.service import Make, MakeUser

Change = Callable[[Transaction, Actor, UUID], Awaitable[object]]


async def send(db: Transaction, actor: Actor, chat_id: UUID) -> None:
    data = TextCreate(type="text", text="hello", client_id=uuid4())
    one(await messages.send_messages(db, [Draft(actor, chat_id, data)]))


@pytest.mark.parametrize(
    ("first", "second", "by_one"),
    [(send, send, False), (chats.pin_chat, send, True), (send, chats.pin_chat, True)],
    ids=["shared", "mine and shared", "shared and mine"],
)
async def test_a_commit_with_a_late_answer_is_still_delivered_first(
    first: Change, second: Change, by_one: bool, make: Make, make_user: MakeUser, service_settings: Settings
) -> None:
    actor, peer = [Actor((await make_user()).id, new_id()) for _ in range(2)]
    noting = Noting()
    database = Database(service_settings.asyncpg_url, delivery=noting)
    chat = await make(ChatFactory, creator=actor, members=[peer], title=None)

    async def change_second(db: Transaction) -> None:
        await second(db, actor if by_one else peer, chat.id)

    delivered = await deliver(database, noting, lambda db: first(db, actor, chat.id), change_second)
    assert delivered == ["first", "second"]


async def test_a_new_name_is_delivered_before_a_later_change_of_the_peers_entry(
    make: Make, make_user: MakeUser, service_settings: Settings
) -> None:
    renamed, peer = [Actor((await make_user()).id, new_id()) for _ in range(2)]
    noting = Noting()
    database = Database(service_settings.asyncpg_url, delivery=noting)
    chat = await make(ChatFactory, creator=renamed, members=[peer], title=None)

    async def rename(db: Transaction) -> None:
        await users.update_me(db, renamed, UserUpdate(name="Another"))

    delivered = await deliver(database, noting, rename, lambda db: chats.pin_chat(db, peer, chat.id))
    assert delivered == ["first", "second"]


async def test_a_chat_becomes_active_before_a_later_removal_is_delivered(
    make: Make, make_user: MakeUser, service_settings: Settings
) -> None:
    creator, member = [Actor((await make_user()).id, new_id()) for _ in range(2)]
    noting = Noting()
    database = Database(service_settings.asyncpg_url, delivery=noting)
    chat = await make(ChatFactory, creator=creator, members=[member])

    async def remove(db: Transaction) -> None:
        await members.remove_member(db, creator, chat.id, member.id)

    delivered = await deliver(database, noting, lambda db: chats.activate_chat(db, member, chat.id), remove)
    assert delivered == ["first", "second"]


class Noting(Delivery):
    """Notes the task of each commit whose events it gets."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def deliver(self, events: list[Recorded]) -> int:
        task = asyncio.current_task()
        assert task and events
        self.tasks.append(task.get_name())
        return 0


async def deliver(
    database: Database,
    noting: Noting,
    first: Callable[[Transaction], Awaitable[object]],
    second: Callable[[Transaction], Awaitable[object]],
) -> list[str]:
    """Returns the order in which both are delivered when the answer to the first commit is read last."""
    noting.tasks.clear()
    committed, answered = asyncio.Event(), asyncio.Event()

    def wait_for_the_answer(_: object) -> None:
        committed.set()
        await_only(answered.wait())

    async def change_first() -> None:
        async with database.transaction() as db:
            await first(db)
            event.listen(db.sync_session, "after_commit", wait_for_the_answer)

    async def change_second() -> None:
        async with database.transaction() as db:
            await second(db)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(change_first(), name="first")
        await committed.wait()
        later = tasks.create_task(change_second(), name="second")
        # The second waits, however long the first takes.
        await asyncio.wait([later], timeout=0.2)
        answered.set()
    await database.close()
    return noting.tasks
