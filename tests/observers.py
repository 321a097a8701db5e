"""Connections that keep a reference client, and what they are compared with: a snapshot read anew."""

from collections.abc import Iterator
from typing import Any, Self

from tests.client_model import PASSING, ClientModel, Json
from tests.clients import Person, Socket, in_step

# What must not come as long as nothing breaks.
FAILURES = {"resync_required", "session_revoked"}


class Observer:
    """One connection of a person. Its events are applied in their order, when it is told to."""

    def __init__(self, person: Person, socket: Socket) -> None:
        self.person = person
        self.socket = socket
        self.model = ClientModel(person.id)
        self.chat_id: str | None = None
        self.applied = 0

    @property
    def name(self) -> str:
        return f"{self.person.name}'s connection {self.person.sockets.index(self.socket)}"

    async def start(self, chat_id: str | None = None) -> Self:
        """Read the snapshot: the list, and the chat that is to be open."""
        self.model.read_list(await list_chats(self.socket))
        if chat_id:
            assert await self.open(chat_id)
        return self

    async def open(self, chat_id: str) -> bool:
        """Activate a chat. What comes before the answer waits for it."""
        self.apply()
        answer = await self.socket.call("activate_chat", {"chat_id": chat_id})
        if answer.ok:
            self.chat_id = chat_id
            self.model.open(answer.data)
        return answer.ok

    async def come_back(self, model: ClientModel, limit: int) -> list[Json]:
        """Be the client that was away, over this new connection. Returns the pages of changes that it read."""
        self.model, self.chat_id = model, model.open_chat_id
        pages = await catch_up(model, self.socket, limit)
        self.apply()
        return pages

    def apply(self) -> None:
        """Give the model what has come since."""
        while self.applied < len(self.socket.events):
            name, event = self.socket.events[self.applied]
            self.applied += 1
            assert name not in FAILURES, f"{self.name}: {name} {event}"
            self.model.receive(name, event)
            assert not (self.model.window and self.model.window.has_gap), f"{self.name}: a gap before {event}"

    async def settle(self) -> list[str]:
        """Wait until what was committed before has come, and apply it. Returns the names of what came."""
        for wait in in_step:
            await wait()
        # Answered without a look into the database, and after whatever was sent before.
        assert (await self.socket.call("settle")).code == "unknown_command"
        told = [name for name, _ in self.socket.events[self.applied :] if name not in PASSING]
        self.apply()
        return told


async def read_anew(socket: Socket, user_id: str, chat_id: str | None) -> ClientModel:
    """A snapshot, with this chat open if there still is one."""
    fresh = ClientModel(user_id)
    pages = await list_chats(socket)
    fresh.read_list(pages)
    assert [chat["id"] for page in pages for chat in page["items"]] == list(fresh.list_state())
    if chat_id in fresh.entries:
        fresh.open(await _ask(socket, "activate_chat", chat_id=chat_id))
    return fresh


def check_equal(name: str, kept: ClientModel, fresh: ClientModel) -> None:
    """Compare a model that was kept up to date with one that was just read."""
    found = [*differences(kept.list_state(), fresh.list_state(), "chats")]
    found += differences(kept.window_state(), fresh.window_state(), "window")
    assert not found, f"{name}: kept, and not as read anew:\n" + "\n".join(found)
    assert not kept.outsiders(), f"{name}: nobody told who these are"


def differences(kept: Any, fresh: Any, path: str) -> Iterator[str]:
    """Where two states differ, with what stands in each."""
    if isinstance(kept, dict) and isinstance(fresh, dict) and kept.keys() == fresh.keys():
        for key in kept:
            yield from differences(kept[key], fresh[key], f"{path}.{key}")
    elif isinstance(kept, list) and isinstance(fresh, list) and len(kept) == len(fresh):
        for number, both in enumerate(zip(kept, fresh, strict=True)):
            yield from differences(*both, f"{path}[{number}]")
    elif kept != fresh:
        yield f"{path}: {kept!r}, not {fresh!r}"


async def list_chats(socket: Socket, **arguments: Any) -> list[Json]:
    """All pages of the list."""
    pages: list[Json] = []
    while not pages or pages[-1]["next_cursor"]:
        cursor = {"cursor": pages[-1]["next_cursor"]} if pages else {}
        pages.append(await _ask(socket, "list_chats", **arguments, **cursor))
    return pages


async def catch_up(model: ClientModel, socket: Socket, limit: int) -> list[Json]:
    """What a client does after a reconnect, in pages of `limit`. Returns the pages of changes that it read.

    Events that come meanwhile are to be applied after it.
    """
    ready = socket.named("ready")[0]
    if ready["active_chat_id"] is None:
        model.window = None
    if ready["sync"] != model.sync:
        since = model.sync
        model.read_list(await list_chats(socket, changed_since=since, limit=limit), since)
    try:
        return await read_missing(model, socket, limit)
    except ChatLost:
        model.window = None
        return []


async def read_missing(model: ClientModel, socket: Socket, limit: int = 100) -> list[Json]:
    """What the open chat lacks: all pages of changes, which are returned, and then the members. Raises ChatLost."""
    pages: list[Json] = []
    while model.window and (not pages or pages[-1]["has_more"]):
        chat_id, since = model.window.chat_id, model.window.version
        pages.append(await _ask(socket, "list_changes", chat_id=chat_id, since=since, limit=limit))
        if pages[-1]["reset"]:
            model.read_newest_page(await _ask(socket, "list_messages", chat_id=chat_id))
        else:
            model.read_changes(pages[-1])
    if model.window:
        model.read_members(await _ask(socket, "list_members", chat_id=model.window.chat_id))
    return pages


class ChatLost(Exception):
    """The chat is none of this person's any more."""


async def _ask(socket: Socket, command: str, **arguments: Any) -> Json:
    answer = await socket.call(command, arguments)
    if answer.code == "chat_not_found":
        raise ChatLost
    assert answer.ok, f"{command} {arguments}: {answer}"
    data: Json = answer.data
    return data
