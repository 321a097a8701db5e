"""The worker processes: after any failure of a job the service gets an answer and works on."""

import asyncio
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from anyio.to_process import _process_pool_workers
from prometheus_client import REGISTRY

from chat_app.errors import BadImage, ChatError, InvalidInput, Unavailable, all_errors
from chat_app.media import images, worker
from chat_app.media.worker import in_worker
from tests.clients import DEADLINE
from tests.media.pictures import corners, encoded
from tests.process import ROOT


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    await close()
    yield
    await close()


async def close() -> None:
    for process in set(_process_pool_workers.get(set())):
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert children() == []


def failures(reason: str) -> float:
    return REGISTRY.get_sample_value("chat_media_failures_total", {"reason": reason}) or 0


def jobs() -> float:
    return REGISTRY.get_sample_value("chat_media_jobs") or 0


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "anyio.to_process" in " ".join(child.cmdline())]


def double(number: int) -> int:
    return 2 * number


def own_pid() -> int:
    return os.getpid()


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    while True:
        pass


def wait_at(gate: str, picture: bytes, **options: bool) -> None:
    """Clean a picture and wait until the test releases the gate."""
    images.clean(picture, **options)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(gate)
        connection.recv(1)


def doze(seconds: float) -> None:
    time.sleep(seconds)


def refuse() -> None:
    raise InvalidInput.at("/file", "wrong", "So it is.")


def fail() -> None:
    raise RuntimeError("a mistake of ours")


def eat(size: int) -> int:
    return len(bytearray(size))


def chatter() -> str:
    print("between the answers")  # noqa: T201
    os.write(1, b"between the answers")
    os.write(2, b"." * 1_000_000)
    return "answer"


async def test_a_job_runs_in_another_process_at_low_priority() -> None:
    assert await in_worker(double, 21) == 42
    process, *others = children()
    assert process.pid == await in_worker(own_pid) != os.getpid()
    assert process.nice() == 10
    assert others == []


# What such a process does: it runs the main module of the service under another name, and imports the job.
CHILD = """
import runpy, sys
runpy.run_path("chat_app/__main__.py", run_name="__mp_main__")
from chat_app.media import images, job
print(*sorted(name for name in sys.modules if name.startswith("chat_app.") or name == "prometheus_client"))
"""


def test_a_worker_does_not_import_the_service() -> None:
    imported = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, check=True)
    packages = {name.removeprefix("chat_app.").partition(".")[0] for name in imported.stdout.split()}
    assert packages == {"errors", "media"}
    assert "chat_app.media.worker" not in imported.stdout.split()


async def test_a_picture_is_processed() -> None:
    assert (await in_worker(images.avatars, encoded(corners(), "PNG"))).suffix == "jpg"


async def test_an_error_keeps_its_fields() -> None:
    with pytest.raises(InvalidInput) as refused:
        await in_worker(refuse)
    assert refused.value.problem(None) == InvalidInput.at("/file", "wrong", "So it is.").problem(None)
    with pytest.raises(BadImage):
        await in_worker(images.avatars, b"rubbish")
    assert len(children()) == 1, "an error does not restart the worker"


@pytest.mark.parametrize("error", all_errors())
def test_every_error_can_be_pickled(error: type[ChatError]) -> None:
    thrown = error("Why.")
    thrown.retry_after = 7
    assert pickle.loads(pickle.dumps(thrown)).problem("id") == thrown.problem("id")


@pytest.mark.parametrize("broken", [crash, fail])
async def test_the_next_job_runs_after_a_crash(broken: object) -> None:
    before, failed = await in_worker(own_pid), failures("crash")
    with pytest.raises(BadImage):
        await in_worker(broken)  # type: ignore[arg-type]  # either of the two
    assert failures("crash") == failed + 1
    assert await in_worker(own_pid) != before
    assert len(children()) == 1


async def processor_seconds(process: psutil.Process) -> float:
    """What a process uses from now to its end, without its start: on a slow machine its imports take seconds."""
    begun = used = sum(process.cpu_times()[:2])
    with suppress(psutil.NoSuchProcess):
        while True:
            used = sum(process.cpu_times()[:2])
            await asyncio.sleep(0.02)
    return used - begun


async def test_a_job_gets_two_seconds_of_processor_time() -> None:
    before = await in_worker(own_pid)
    watching = asyncio.create_task(processor_seconds(psutil.Process(before)))
    await asyncio.sleep(0)
    with pytest.raises(BadImage) as refused:
        await in_worker(hang)
    assert "time" in refused.value.detail
    assert 1 < await watching < 3
    assert await in_worker(own_pid) != before


async def test_a_job_without_processor_time_is_killed_and_may_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    await in_worker(own_pid)
    monkeypatch.setattr(worker, "JOB_SECONDS", 0.3)
    failed = failures("timeout")
    with pytest.raises(Unavailable) as refused:
        await in_worker(doze, 60)
    assert refused.value.retry_after
    assert failures("timeout") == failed + 1
    assert children() == []


async def test_small_pictures_do_not_wait_for_large_ones(tmp_path: Path) -> None:
    arrived: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    gate = str(tmp_path / "gate")
    server = await asyncio.start_unix_server(lambda _, writer: arrived.put_nowait(writer), gate)
    picture = encoded(corners((4100, 3000)), "JPEG")
    large = [asyncio.create_task(in_worker(wait_at, gate, picture)) for _ in range(3)]
    for number in range(3):
        async with asyncio.timeout(50):
            writer = await arrived.get()
            assert await in_worker(double, number) == 2 * number
            assert sum(job.done() for job in large) == number, "the small one waited for a large one"
            writer.close()
            await asyncio.wait([job for job in large if not job.done()], return_when=asyncio.FIRST_COMPLETED)
    server.close()


async def test_pictures_do_not_wait_for_many_pictures_of_one_other_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MAX_OF_ONE", 5)
    arrived: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    gate = str(tmp_path / "gate")
    server = await asyncio.start_unix_server(lambda _, writer: arrived.put_nowait(writer), gate)
    picture = encoded(corners(), "PNG")
    async with asyncio.timeout(50), asyncio.TaskGroup() as jobs:
        for _ in range(5):
            jobs.create_task(in_worker(wait_at, gate, picture, owner="one"))
        for number in range(5):
            writer = await arrived.get()
            assert await in_worker(double, number, owner="another") == 2 * number
            if number == 0:
                with pytest.raises(Unavailable):
                    await in_worker(double, number, owner="one")
            writer.close()
    assert await in_worker(double, 1, owner="one") == 2
    server.close()


async def test_the_memory_of_a_job_is_limited() -> None:
    assert await in_worker(eat, 200_000_000) == 200_000_000
    with pytest.raises(BadImage):
        await in_worker(eat, 2_000_000_000)
    assert await in_worker(double, 1) == 2


async def test_a_bomb_takes_no_memory_of_the_service() -> None:
    bomb = encoded(corners((6300, 6300), "P"), "PNG") + bytes(200_000)
    before = psutil.Process().memory_info().rss
    made = await in_worker(images.avatars, bomb)
    assert psutil.Process().memory_info().rss - before < 30_000_000 + len(made.original)
    assert psutil.Process(await in_worker(own_pid)).memory_info().rss < 1 << 30


async def test_output_of_a_job_does_not_disturb_its_answer() -> None:
    assert [await in_worker(chatter) for _ in range(3)] == ["answer"] * 3


async def test_answers_are_not_mixed_up_after_a_cancelled_job() -> None:
    await in_worker(double, 1)
    slow = asyncio.create_task(in_worker(doze, 0.5))
    await asyncio.sleep(0.2)
    jobs = [asyncio.create_task(in_worker(double, number)) for number in range(20)]
    slow.cancel()
    assert await asyncio.gather(*jobs) == [2 * number for number in range(20)]


async def test_the_number_of_waiting_jobs_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MAX_WAITING", 3)
    before, failed = jobs(), failures("full")
    tasks = [asyncio.create_task(in_worker(doze, 0.2)) for _ in range(worker.PROCESSES + 3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        await in_worker(double, 1)
    assert refused.value.retry_after
    assert (jobs(), failures("full")) == (before + worker.PROCESSES + 3, failed + 1)
    await asyncio.gather(*tasks)
    assert jobs() == before
    assert await in_worker(double, 1) == 2
    monkeypatch.setattr(worker, "MAX_WAITING_BYTES", 1000)
    with pytest.raises(Unavailable):
        await in_worker(len, b"0" * 1000)


PARENT = """
import asyncio, os, sys
from contextlib import suppress
from chat_app.media.worker import in_worker
from tests.media.test_worker import doze, own_pid

async def main():
    print(await in_worker(own_pid), flush=True)
    await in_worker(doze, float(sys.argv[1]))
    print("idle", flush=True)
    await asyncio.sleep(60)

with suppress(KeyboardInterrupt):
    asyncio.run(main())
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", ["busy", "idle"])
def test_a_worker_does_not_outlive_its_parent(end: signal.Signals, state: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, "1" if state == "busy" else "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path]))},
    )
    assert parent.stdout
    assert parent.stderr
    child = psutil.Process(int(parent.stdout.readline()))
    if state == "idle":
        assert parent.stdout.readline() == "idle\n"
    os.killpg(parent.pid, end)
    parent.wait(timeout=DEADLINE)
    child.wait(timeout=DEADLINE)
    assert parent.stderr.read() == ""
    parent.stdout.close()
    parent.stderr.close()
