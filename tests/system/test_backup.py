"""A dump made under load, and the files copied after it, pass the restore drill of the runbook; clients read anew."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from copy import deepcopy
from pathlib import Path

import pytest

from tests.chaos.nodes import Node
from tests.chaos.stage import SERVICE
from tests.clients import Person, http_answer
from tests.media.pictures import loaded
from tests.observers import Observer, check_equal, read_anew
from tests.process import ROOT
from tests.system.conftest import SOCKET, System, Writer, brings, check_history, history, write_through
from tests.system.programs import PROGRAMS

pytestmark = pytest.mark.timeout(300)


def dump(url: str, file: Path) -> None:
    subprocess.run([PROGRAMS / "pg_dump", "--format=custom", f"--file={file}", url], check=True)


def drill(url: str, backup: Path) -> str:
    """Walk the restore drill of the runbook. Returns what it prints."""
    section = (ROOT / "manifests/RUNBOOK.md").read_text().partition("\n## Restore drill\n")[2]
    (commands,) = [block for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) if "pg_restore" in block]
    path = f"{PROGRAMS}:{os.environ['PATH']}"
    environment = os.environ | {"DRILL": url, "BACKUP": str(backup), "CHAT_DATA_DIR": str(backup), "PATH": path}
    shell = ["bash", "-euxc", commands]
    done = subprocess.run(shell, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def send_picture(person: Person, chat_id: str) -> None:
    file = {"file": ("a.jpg", loaded("JPEG"), "image/jpeg")}
    uploaded = http_answer(await person.http.post("/api/v1/attachments", files=file)).data
    await SOCKET.send(person, chat_id, type="image", attachment_id=uploaded["id"], text="a picture")


@pytest.fixture
async def restored(system: System, tmp_path: Path) -> AsyncIterator[Node]:
    """A node for a database and a folder that are still empty; it knows no bus."""
    connection = await system.stage.postgres.connect()
    await connection.execute("CREATE DATABASE restored")
    await connection.close()
    node = Node("restored", tmp_path, SERVICE)
    node.environment = system.nodes[0].environment | {
        "CHAT_PORT": str(node.port),
        "CHAT_DATABASE_URL": system.stage.postgres.url.removesuffix("postgres") + "restored",
        "CHAT_MEDIA_URL": (tmp_path / "drill/media").as_uri(),
        "CHAT_DATA_DIR": str(tmp_path),
    }
    del node.environment["CHAT_BUS_URL"]
    node.entrance = node.port
    yield node
    if hasattr(node, "process"):
        await node.kill()


async def test_what_was_backed_up_under_load_is_whole(system: System, restored: Node, tmp_path: Path) -> None:
    people = [await system.register(name, node) for name, node in (("Anna", 0), ("Boris", 1), ("Clara", 1))]
    chat = await SOCKET.create_group(*people)
    await send_picture(people[0], chat["id"])
    backup = tmp_path / "drill"
    observer = await Observer(people[2], await people[2].connect()).start(chat["id"])
    before_dump = deepcopy(observer.model)
    writers = [Writer(people[0], "socket", chat["id"]), Writer(people[1], "http", chat["id"])]
    acked: list[dict[str, int]] = []

    async def back_up() -> None:
        acked.extend(dict(writer.acked) for writer in writers)
        backup.mkdir()
        await asyncio.to_thread(dump, system.stage.postgres.url, backup / "chat.dump")
        await asyncio.to_thread(shutil.copytree, system.stage.folder / "media", backup / "media")

    assert await write_through(writers, back_up) == []
    sent = await SOCKET.send(people[0], chat["id"], "after the dump")
    await people[2].socket.wait_for("messages_changed", lambda event: brings(event, sent["seq"]))
    observer.apply()
    assert observer.model.window

    printed = await asyncio.to_thread(drill, restored.environment["CHAT_DATABASE_URL"], backup)
    assert "Violations: 0\n" in printed
    for part in ("database", "migrations", "media"):
        assert re.search(rf"^{part} +ok$", printed, re.MULTILINE), printed
    await restored.start()
    system.nodes.append(restored)
    try:
        back = [system.at(2, person) for person in people]
    finally:
        system.nodes.remove(restored)
    texts = await history(back[0], chat["id"])
    assert "after the dump" not in texts
    for before in acked:
        assert all(texts[seq - 1] == text for text, seq in before.items())
    check_history([_of(writer, texts) for writer in writers], texts)

    # Who was away since before the dump catches up; who has seen what the service forgot gets everything anew.
    returned = Observer(back[2], await back[2].connect(active_chat_id=chat["id"]))
    await returned.come_back(before_dump, 50)
    check_equal("Clara", returned.model, await read_anew(back[2].socket, back[2].id, chat["id"]))
    changes = await SOCKET.do(back[2], "list_changes", chat_id=chat["id"], since=observer.model.window.version)
    assert changes["reset"]
    changed = await SOCKET.do(back[2], "list_chats", changed_since=observer.model.sync)
    assert [entry["id"] for entry in changed["items"]] == [chat["id"]]
    await SOCKET.send(back[0], chat["id"], "goes on")
    assert (await history(back[1], chat["id"]))[len(texts) :] == ["goes on"]


def _of(writer: Writer, texts: list[str | None]) -> Writer:
    """What of it is in the dump."""
    kept = Writer(writer.person, writer.transport, writer.chat_id)
    kept.acked = {text: seq for text, seq in writer.acked.items() if text in texts}
    kept.unknown = writer.unknown
    return kept
