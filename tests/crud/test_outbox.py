"""Sends wait for the commit under way and share the next one."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from chat_app.crud import outbox
from chat_app.crud.messages import Draft, Sent
from chat_app.crud.outbox import Outbox
from chat_app.database import Database
from chat_app.driver import RawConnection
from chat_app.errors import ChatError, ChatNotFound, Internal, Unavailable
from chat_app.models.answers import Created
from chat_app.models.messages import TextCreate
from chat_app.models.sessions import Actor
from tests.cast import sent_message
from tests.clients import DEADLINE, until
from tests.factories import ChatFactory
from tests.service import Make, MakeUser

HOLD = "SELECT FROM chat WHERE id = ANY($1::uuid[]) FOR UPDATE"

Result = Sent | ChatError


@pytest.fixture
async def box(database: Database) -> AsyncIterator[Outbox]:
    made = Outbox(database)
    yield made
    await made.close()


@pytest.fixture
async def anna(make_user: MakeUser) -> Actor:
    return Actor((await make_user()).id, uuid4())


@pytest.fixture
async def chat_ids(make: Make, anna: Actor) -> list[UUID]:
    return [(await make(ChatFactory, creator=anna, title=None)).id for _ in range(6)]


def draft(actor: Actor, chat_id: UUID, words: str = "hello") -> Draft:
    return Draft(actor, chat_id, TextCreate.model_construct(client_id=uuid4(), type="text", text=words, reply_to=None))


async def put(box: Outbox, *drafts: Draft) -> list[tuple[int, Result]]:
    """Put all drafts in at once. Returns each result with its draft's place, in the order of the results."""
    results: list[tuple[int, Result]] = []
    done = asyncio.Event()

    def note(place: int, result: Result) -> None:
        results.append((place, result))
        if len(results) == len(drafts):
            done.set()

    for place, one in enumerate(drafts):
        box.put(one, lambda result, place=place: note(place, result))
    async with asyncio.timeout(DEADLINE):
        await done.wait()
    return results


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    counted: list[None] = []
    commit = RawConnection.commit

    async def count_and_commit(batch: RawConnection) -> None:
        counted.append(None)
        await commit(batch)

    monkeypatch.setattr(RawConnection, "commit", count_and_commit)
    return counted


async def test_simultaneous_sends_share_commits(
    box: Outbox, anna: Actor, chat_ids: list[UUID], commits: list[None]
) -> None:
    results = await put(box, *(draft(anna, chat_ids[number % 6]) for number in range(60)))
    assert all(isinstance(result, Created) for _, result in results)
    # The first ones go alone: the outbox does not wait for more.
    assert len(commits) <= 2


async def test_a_single_send_is_committed_at_once(
    box: Outbox, anna: Actor, chat_ids: list[UUID], commits: list[None]
) -> None:
    for number in range(3):
        assert sent_message(await box.send(draft(anna, chat_ids[0]))).seq == number + 1
    assert len(commits) == 3


async def test_results_keep_the_order_of_the_sends(box: Outbox, anna: Actor, chat_ids: list[UUID]) -> None:
    results = await put(box, *(draft(anna, chat_ids[0]) for _ in range(300)))
    assert [place for place, _ in results] == list(range(300))
    assert [sent_message(result).seq for _, result in results if isinstance(result, Created)] == list(range(1, 301))


async def test_a_locked_chat_does_not_delay_other_chats(
    box: Outbox, anna: Actor, chat_ids: list[UUID], database: Database
) -> None:
    held, *free = chat_ids
    async with database.raw_transaction() as holder:
        await holder.lock(HOLD, [held], patience=1)
        waiting = [asyncio.create_task(put(box, *(draft(anna, held) for _ in range(3))))]
        sent = await put(box, *(draft(anna, chat_id) for chat_id in free), *(draft(anna, chat_id) for chat_id in free))
        assert all(isinstance(result, Created) for _, result in sent)
        # Later ones to the same chat queue up behind the first.
        waiting.append(asyncio.create_task(put(box, draft(anna, held))))
        await asyncio.wait(waiting, timeout=0.3)
        assert not any(task.done() for task in waiting)
    seqs = [sent_message(result).seq for task in waiting for _, result in await task if isinstance(result, Created)]
    assert seqs == [1, 2, 3, 4]


async def test_sends_to_a_contended_chat_keep_their_order(
    box: Outbox, anna: Actor, chat_ids: list[UUID], database: Database
) -> None:
    results: list[Result] = []
    async with database.raw_transaction() as holder:
        await holder.lock(HOLD, chat_ids[:1], patience=1)
        box.put(draft(anna, chat_ids[0], "1"), results.append)
        await asyncio.sleep(0)
        # The first one is being written.
        box.put(draft(anna, chat_ids[0], "2"), results.append)
        await until(lambda: box._contended)
        box.put(draft(anna, chat_ids[0], "3"), results.append)
        await asyncio.wait([asyncio.create_task(box.close())], timeout=5 * outbox.PATIENCE_SECONDS)
    await box.close()
    assert [sent_message(sent).text for sent in results if isinstance(sent, Created)] == ["1", "2", "3"]
    assert [sent_message(sent).seq for sent in results if isinstance(sent, Created)] == [1, 2, 3]


async def test_only_the_chat_that_stays_locked_is_given_up(
    box: Outbox, anna: Actor, chat_ids: list[UUID], database: Database
) -> None:
    hasty = Database(database.url, patience=1)
    held, free, *_ = chat_ids
    async with database.raw_transaction() as holder:
        await holder.lock(HOLD, [held], patience=1)
        giving_up, sending = Outbox(hasty), asyncio.create_task(put(box, draft(anna, free)))
        assert isinstance((await put(giving_up, draft(anna, held)))[0][1], Unavailable)
        assert isinstance((await sending)[0][1], Created)
    assert sent_message(await box.send(draft(anna, held))).seq == 1
    await giving_up.close()
    await hasty.close()


async def test_a_refused_draft_does_not_affect_others(box: Outbox, anna: Actor, chat_ids: list[UUID]) -> None:
    results = dict(await put(box, *(draft(anna, chat_id) for chat_id in (chat_ids[0], uuid4(), chat_ids[1]))))
    assert isinstance(results[1], ChatNotFound)
    assert isinstance(results[0], Created) and isinstance(results[2], Created)


async def test_a_draft_that_breaks_the_statement_does_not_affect_others(
    box: Outbox, anna: Actor, chat_ids: list[UUID]
) -> None:
    # Both transports refuse a NUL before this point; the database refuses it too.
    words = ["first", "bro\x00ken", "last"]
    results = dict(await put(box, *(draft(anna, chat_ids[0], text) for text in words)))
    assert isinstance(results[1], Internal)
    assert [sent_message(result).seq for result in (results[0], results[2]) if isinstance(result, Created)] == [1, 2]


async def test_a_callback_that_raises_does_not_affect_others(box: Outbox, anna: Actor, chat_ids: list[UUID]) -> None:
    def fail(_result: Result) -> None:
        raise RuntimeError

    box.put(draft(anna, chat_ids[0]), fail)
    assert sent_message(await box.send(draft(anna, chat_ids[0]))).seq == 2


async def test_closing_waits_for_a_contended_chat(
    box: Outbox, anna: Actor, chat_ids: list[UUID], database: Database
) -> None:
    results: list[Result] = []
    async with database.raw_transaction() as holder:
        await holder.lock(HOLD, chat_ids[:1], patience=1)
        box.put(draft(anna, chat_ids[0]), results.append)
        closing = asyncio.create_task(box.close())
        await asyncio.wait([closing], timeout=5 * outbox.PATIENCE_SECONDS)
        assert not results
    await closing
    assert len(results) == 1 and isinstance(results[0], Created)


async def test_closing_waits_for_accepted_sends(box: Outbox, anna: Actor, chat_ids: list[UUID]) -> None:
    results: list[Result] = []
    for chat_id in chat_ids:
        box.put(draft(anna, chat_id), results.append)
    await box.close()
    assert len(results) == len(chat_ids) and all(isinstance(result, Created) for result in results)


async def test_sends_that_answer_a_batch_share_the_next_commit(
    box: Outbox, anna: Actor, chat_ids: list[UUID], commits: list[None]
) -> None:
    loop, results = asyncio.get_running_loop(), asyncio.Queue[Sent | ChatError]()

    def answer(_sent: Sent | ChatError) -> None:
        # A client can have read the ack one iteration of the event loop later.
        loop.call_soon(loop.call_soon, box.put, draft(anna, chat_ids[0]), results.put_nowait)

    box.put(draft(anna, chat_ids[0]), answer)
    await asyncio.sleep(0)
    box.put(draft(anna, chat_ids[1]), results.put_nowait)
    assert all([isinstance(await results.get(), Created) for _ in range(2)])
    assert len(commits) == 2
