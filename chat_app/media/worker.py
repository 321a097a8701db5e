"""Runs pure functions in processes of their own: what hostile input does to them, the service survives."""

import asyncio
import os
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

from chat_app.errors import BadImage, Unavailable
from chat_app.logs import log

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

JOB_SECONDS = 30
MAX_WAITING = 32
MAX_WAITING_BYTES = 100_000_000
# Each may take the memory that __main__ allows it, so there are never more than two, however many cores.
PROCESSES = max(1, min(2, (os.cpu_count() or 1) - 1))


class Worker:
    """One process, started for its first job and again after a job that it did not survive."""

    def __init__(self) -> None:
        self.process: Process | None = None

    async def run(self, job: bytes) -> Any:
        """The result of a job; raises what it raised, or BadImage if it crashed or took too long."""
        try:
            async with asyncio.timeout(JOB_SECONDS):
                is_result, answer = pickle.loads(await self._exchange(job))
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            log.warning("media worker lost", reason=type(error).__name__)
            await self.stop()
            raise BadImage from None
        except BaseException:
            # Its answer is still to come, and would be taken for that of the next job.
            await self.stop()
            raise
        if not is_result:
            raise answer
        return answer

    async def _exchange(self, job: bytes) -> bytes:
        if self.process is None:
            self.process = await _start()
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(len(job).to_bytes(8) + job)
        await self.process.stdin.drain()
        size = int.from_bytes(await self.process.stdout.readexactly(8))
        return await self.process.stdout.readexactly(size)

    async def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


async def _start() -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chat_app.media"),
        stdin=PIPE,
        stdout=PIPE,
        limit=1 << 20,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        # Ctrl-C in a terminal goes to a whole group. This one ends with its stdin: however the service ends.
        start_new_session=True,
    )


class Pool:
    """The workers of one event loop, and who waits for them."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.workers = [Worker() for _ in range(PROCESSES)]
        self.idle = self.workers.copy()
        self.free = asyncio.Semaphore(PROCESSES)
        self.jobs = 0
        self.bytes = 0

    async def run(self, job: bytes) -> Any:
        """Runs a job as soon as a worker is free; raises Unavailable when too much waits already."""
        if self.jobs >= MAX_WAITING + PROCESSES or self.bytes + len(job) > MAX_WAITING_BYTES:
            raise Unavailable("Too many pictures wait to be read; try again.", retry_after=5)
        self.jobs += 1
        self.bytes += len(job)
        try:
            async with self.free:
                worker = self.idle.pop()
                try:
                    return await worker.run(job)
                finally:
                    self.idle.append(worker)
        finally:
            self.jobs -= 1
            self.bytes -= len(job)


_pool: Pool | None = None


async def in_worker(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """What `function(*args)` returns or raises. BadImage when it crashes, eats its memory or takes too long."""
    global _pool
    if _pool is None or _pool.loop is not asyncio.get_running_loop():
        _pool = Pool()
    result: T = await _pool.run(pickle.dumps((function, args)))
    return result


async def close_worker() -> None:
    """End the workers, also one that is busy."""
    global _pool
    pool, _pool = _pool, None
    if pool is not None:
        await asyncio.gather(*(worker.stop() for worker in pool.workers))
