"""During a deploy an older version and this one run side by side, on one database and one bus, and lose nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import nodes
from tests.chaos.history import Recorder
from tests.chaos.nodes import Node
from tests.chaos.stage import SERVICE, stage
from tests.chaos.versions import earlier_version
from tests.clients import Person, until
from tests.observers import Observer, check_equal, list_chats, read_anew, read_missing
from tests.system.conftest import SOCKET, System, brings, history

pytestmark = pytest.mark.timeout(300)

RESYNC = "resync_required"


@pytest.fixture
async def deploying(data_dir: Path) -> AsyncIterator[System]:
    """Node a runs the earlier version, whose tables these were until this one migrated; node b is not started."""
    folder = data_dir / "deploy"
    folder.mkdir()
    recorder = Recorder(folder / "notes")
    async with stage(folder, recorder, "a", earlier_version(folder / "earlier")) as running:
        system = System(running)
        new = Node("b", folder, SERVICE)
        new.on_end = running.nodes[0].on_end
        settings = {name: value for name, value in running.nodes[0].environment.items() if name.startswith("CHAT_")}
        for name in ("CHAT_DATABASE_URL", "CHAT_BUS_URL", "CHAT_PORT"):
            del settings[name]
        await new.prepare(running.network, running.postgres, running.valkey, settings)
        running.nodes.append(new)
        yield system
        await system.close()
        if not hasattr(new, "process"):
            running.nodes.remove(new)
    recorder.close()


async def send_all_ways(people: list[Person], chat_id: str) -> None:
    """Each sends, and everybody who has the chat open gets it."""
    for sender in people:
        sent = await SOCKET.send(sender, chat_id, f"from {sender.name}")
        await SOCKET.do(sender, "like_message", chat_id=chat_id, seq=sent["seq"])
        for person in people:
            await get_liked(person, chat_id, sent["seq"])


async def get_liked(person: Person, chat_id: str, seq: int) -> None:
    """Wait for a message and its like: in an event, or after `resync_required` where the versions share no channel."""
    read = 0

    def is_new() -> bool:
        changes = person.socket.named("messages_changed")
        has_event = any(brings(event, seq) and event["messages"][-1]["like_count"] for event in changes)
        return has_event or len(person.socket.named(RESYNC)) > read

    liked = False
    while not liked:
        await until(is_new)
        read = len(person.socket.named(RESYNC))
        answer = await SOCKET.call(person, "get_message", chat_id=chat_id, seq=seq)
        liked = answer.ok and answer.data["like_count"] == 1


async def follow(observer: Observer) -> None:
    """Apply what has come, and read what was missed, as a client does after `resync_required`."""
    for name, event in observer.socket.events[observer.applied :]:
        if name != RESYNC:
            observer.model.receive(name, event)
    observer.applied = len(observer.socket.events)
    since = observer.model.sync
    observer.model.read_list(await list_chats(observer.socket, changed_since=since), since)
    await read_missing(observer.model, observer.socket)


async def test_both_versions_deliver_to_each_other(deploying: System) -> None:
    anna, clara = await deploying.register("Anna", 0), await deploying.register("Clara", 0)
    chat = await SOCKET.create_group(anna, clara)
    old = await Observer(clara, await clara.connect()).start(chat["id"])
    await SOCKET.send(anna, chat["id"], "before")

    status, output = await nodes.command(deploying.nodes[1].environment, "migrate")
    assert status == 0, output
    await deploying.nodes[1].start()
    boris = await deploying.register("Boris", 1)
    await SOCKET.do(boris, "list_chats")
    await SOCKET.do(anna, "add_members", chat_id=chat["id"], user_ids=[boris.id])
    for person in (anna, boris):
        await person.open(chat["id"])
    await send_all_ways([anna, boris, clara], chat["id"])
    await follow(old)
    check_equal("Clara", old.model, await read_anew(clara.socket, clara.id, chat["id"]))

    # What a client keeps of the old version is good for the new one.
    await deploying.nodes[0].stop()
    assert deploying.nodes[0].process.returncode == 0
    await SOCKET.send(boris, chat["id"], "after")
    moved = deploying.at(1, clara)
    new = Observer(moved, await moved.connect(active_chat_id=chat["id"]))
    await new.come_back(old.model, 50)
    check_equal("Clara", new.model, await read_anew(moved.socket, moved.id, chat["id"]))
    texts = await history(moved, chat["id"])
    assert texts == [None, "before", None, "from Anna", "from Boris", "from Clara", "after"]
    status, output = await nodes.command(deploying.nodes[1].environment, "verify")
    assert (status, output.splitlines()[-1]) == (0, "Violations: 0"), output
