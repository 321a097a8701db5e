"""Full disks: what can't be written is answered 503, what is acked stays, and the service goes on without a restart."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.chaos import disks
from tests.chaos.history import Recorder
from tests.chaos.stage import stage
from tests.clients import http_answer
from tests.system.conftest import SOCKET, Follower, System, Writer, check_history, history, write_through

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
async def on_small_disks(data_dir: Path) -> AsyncIterator[System]:
    """A system whose database and files have a disk each."""
    folder = Path(mkdtemp(prefix="disks-", dir=data_dir))
    recorder = Recorder(folder / "notes")
    with disks.disks(folder, disks.DISKS):
        async with stage(folder, recorder, "ab") as running:
            system = System(running)
            yield system
            await system.close()
    recorder.close()


async def test_a_full_disk_under_the_database_loses_nothing_acked(on_small_disks: System) -> None:
    people = [await on_small_disks.register(name, node) for name, node in (("Anna", 0), ("Boris", 1))]
    chat = await SOCKET.create_group(*people)
    writers = [Writer(people[0], "socket", chat["id"]), Writer(people[1], "http", chat["id"])]
    place = on_small_disks.stage.folder / disks.DISKS["disk-db"]

    async def fill() -> None:
        await disks.fill(place)
        if not on_small_disks.stage.postgres.processes():
            # As a supervisor would.
            await on_small_disks.stage.postgres.stop()
            await on_small_disks.stage.postgres.start()

    assert await write_through(writers, fill, Follower(people[1], chat["id"])) == []
    for node in (0, 1):
        check_history(writers, await history(on_small_disks.at(node, people[0]), chat["id"]))


async def test_a_full_disk_under_the_files_keeps_no_upload_and_stops_no_message(on_small_disks: System) -> None:
    anna, boris = await on_small_disks.register("Anna", 0), await on_small_disks.register("Boris", 1)
    chat = await SOCKET.open_private_chat(anna, boris)
    place = on_small_disks.stage.folder / disks.DISKS["disk-media"]
    upload = {"file": ("a.bin", bytes(2**20), "application/octet-stream")}
    ballast = place / "ballast"
    with ballast.open("wb") as taken:
        free = os.statvfs(place)
        os.posix_fallocate(taken.fileno(), 0, free.f_bavail * free.f_frsize)
    answer = http_answer(await anna.http.post("/api/v1/attachments", files=upload))
    assert (answer.status, answer.code) == (503, "unavailable")
    assert (await SOCKET.send(anna, chat["id"]))["seq"] == 1
    ballast.unlink()
    assert http_answer(await anna.http.post("/api/v1/attachments", files=upload)).status == 201
    kept = [file.stat().st_size for file in place.rglob("*") if file.is_file()]
    assert kept == [2**20], "a part of a file"
