"""Sends of this process: they wait while the commit before theirs is under way, and then share the next one.

There is no timer: a send that comes alone goes at once, and the more come, the more share a commit.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from opentelemetry.trace import Span, get_current_span

from chat_app import logs, metrics, tracing
from chat_app.crud.messages import Draft, Sent, one, send_messages
from chat_app.database import Database
from chat_app.driver import Busy
from chat_app.errors import ChatError, Unavailable

MOST_AT_ONCE = 256
# A chat that another transaction holds for longer is contended: its sends wait apart from the others.
PATIENCE_SECONDS = 0.05
CONTENDED_AT_ONCE = 4
# A send with less time left is not tried: it would slow down the others, and its outcome might be unknown.
LEAST_SECONDS = 0.1

Done = Callable[[Sent | ChatError], None]


class _Waiting(NamedTuple):
    draft: Draft
    done: Done
    request_id: str | None
    span: Span | None
    # The end of its patience, as a time of the event loop.
    until: float


class _Queue:
    """Sends that go one batch after another, in the order of their arrival."""

    def __init__(self) -> None:
        self.waiting: list[_Waiting] = []
        self.task: asyncio.Task[None] | None = None


class Outbox:
    """All sends of a process, from both transports."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._queue = _Queue()
        self._contended: dict[UUID, _Queue] = {}
        self._slots = asyncio.Semaphore(CONTENDED_AT_ONCE)

    def put(self, draft: Draft, done: Done, request_id: str | None = None, span: Span | None = None) -> None:
        """Send a message. `done` is called with the result, after the commit and its events."""
        queue = self._contended.get(draft.chat_id) if self._contended else None
        until = asyncio.get_running_loop().time() + self.database.patience
        self._append(queue or self._queue, _Waiting(draft, done, request_id, span, until))

    async def send(self, draft: Draft) -> Sent:
        """Send a message and wait. Raises its error."""
        result: asyncio.Future[Sent | ChatError] = asyncio.get_running_loop().create_future()
        origin = logs.context().get("request_id"), get_current_span() if tracing.tracer else None
        self.put(draft, lambda sent: None if result.done() else result.set_result(sent), *origin)
        sent = one([await result])
        logs.bind(chat=draft.chat_id, seq=sent.seq)
        return sent

    async def close(self) -> None:
        """Wait for the sends that are under way."""
        while tasks := [queue.task for queue in (self._queue, *self._contended.values()) if queue.task]:
            await asyncio.gather(*tasks)

    def _append(self, queue: _Queue, waiting: _Waiting) -> None:
        queue.waiting.append(waiting)
        if queue.task is None:
            queue.task = asyncio.get_running_loop().create_task(self._run(queue))

    async def _run(self, queue: _Queue) -> None:
        while queue.waiting:
            batch, queue.waiting = queue.waiting[:MOST_AT_ONCE], queue.waiting[MOST_AT_ONCE:]
            if queue is self._queue:
                await self._send(batch)
            else:
                await self._send_contended(batch)
            # In the next iteration of the loop the answers are written, in the one after it the sends that follow them
            # are read and share the next commit. Otherwise these senders and the others would alternate for ever.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        queue.task = None
        self._contended = {chat_id: other for chat_id, other in self._contended.items() if other is not queue}

    async def _send_contended(self, batch: list[_Waiting]) -> None:
        try:
            async with asyncio.timeout_at(min(waiting.until for waiting in batch)):
                await self._slots.acquire()
        except TimeoutError:
            self._answer(batch, [Unavailable()] * len(batch))
            return
        try:
            await self._send(batch, is_contended=True)
        finally:
            self._slots.release()

    async def _send(self, batch: list[_Waiting], *, is_contended: bool = False) -> None:
        batch = self._refuse_late(batch)
        if not batch:
            return
        logs.bind_request(requests=[waiting.request_id for waiting in batch])
        tracing.share(waiting.span for waiting in batch)
        until = min(waiting.until for waiting in batch)
        # A lock that is given up by the server leaves the connection whole.
        patience = 0.9 * (until - asyncio.get_running_loop().time()) if is_contended else PATIENCE_SECONDS
        try:
            async with self.database.raw_transaction(until) as db:
                results: list[Sent | ChatError] = await send_messages(
                    db, [waiting.draft for waiting in batch], patience=patience
                )
                both = zip(batch, results, strict=True)
                if accepted := [sent.request_id for sent, result in both if not isinstance(result, ChatError)]:
                    logs.bind(requests=accepted)
                    logs.log_info("authorized")
            metrics.commit_batch.observe(len(batch))
        except Exception as error:
            if isinstance(error, Busy) and not is_contended:
                self._queue_contended(batch)
                return
            if not isinstance(error, ChatError) and len(batch) > 1:
                # One draft that breaks the statement must not take the others with it.
                for waiting in batch:
                    await self._send([waiting], is_contended=is_contended)
                return
            results = [logs.as_chat_error(error)] * len(batch)
        self._answer(batch, results)

    def _refuse_late(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Refuse those that have waited for too long, without a try. Returns the others."""
        latest = asyncio.get_running_loop().time() + LEAST_SECONDS
        late = [waiting for waiting in batch if waiting.until < latest]
        self._answer(late, [Unavailable()] * len(late))
        return [waiting for waiting in batch if waiting.until >= latest] if late else batch

    def _queue_contended(self, batch: list[_Waiting]) -> None:
        # Later sends to these chats go to their queues at once. Those that wait here already must stay before them.
        chat_ids = {waiting.draft.chat_id for waiting in batch}
        behind = [waiting for waiting in self._queue.waiting if waiting.draft.chat_id in chat_ids]
        self._queue.waiting = [waiting for waiting in self._queue.waiting if waiting.draft.chat_id not in chat_ids]
        for waiting in batch + behind:
            self._append(self._contended.setdefault(waiting.draft.chat_id, _Queue()), waiting)

    def _answer(self, batch: list[_Waiting], results: Sequence[Sent | ChatError]) -> None:
        logs.bind_request()
        for waiting, result in zip(batch, results, strict=True):
            try:
                waiting.done(result)
            except Exception as error:
                logs.log_crash(error)
