"""Connections with a reference client each, and the fresh snapshots with which they are compared."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self

from tests.client_model import PASSING, ClientModel, Json
from tests.clients import Person, Socket, in_step

# Events that must not arrive while nothing fails.
FAILURES = {"resync_required", "session_revoked"}


class Observer:
    """One connection of a person. `apply` and `settle` apply its events in their order."""

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
        """Read the snapshot: the chat list and the chat to be opened."""
        self.model.read_list(await list_chats(self.socket))
        if chat_id:
            assert await self.open(chat_id)
        return self

    async def open(self, chat_id: str) -> bool:
        """Activate a chat. Events that arrive before the answer are applied after it."""
        self.apply()
        answer = await self.socket.call("activate_chat", {"chat_id": chat_id})
        if answer.ok:
            self.chat_id = chat_id
            self.model.open(answer.data)
        return answer.ok

    async def come_back(self, model: ClientModel, limit: int) -> list[Json]:
        """Continue with the model of a disconnected client. Returns the pages of changes that it read."""
        self.model, self.chat_id = model, model.open_chat_id
        pages = await catch_up(model, self.socket, limit)
        self.apply()
        return pages

    def apply(self) -> None:
        """Apply the events that arrived since the last call."""
        while self.applied < len(self.socket.events):
            name, event = self.socket.events[self.applied]
            self.applied += 1
            assert name not in FAILURES, f"{self.name}: {name} {event}"
            self.model.receive(name, event)
            assert not (self.model.window and self.model.window.has_gap), f"{self.name}: a gap before {event}"

    async def settle(self) -> list[str]:
        """Wait until all events of earlier commits have arrived, and apply them. Returns their names."""
        for wait in in_step:
            await wait()
        # The answer needs no database and comes after all events sent before.
        assert (await self.socket.call("settle")).code == "unknown_command"
        names = [name for name, _ in self.socket.events[self.applied :] if name not in PASSING]
        self.apply()
        await read_group(self.model, self.socket)
        return names


async def read_anew(socket: Socket, user_id: str, chat_id: str | None) -> ClientModel:
    """A fresh snapshot, with this chat open if it still exists for the user."""
    fresh = ClientModel(user_id)
    pages = await list_chats(socket)
    fresh.read_list(pages)
    assert [chat["id"] for page in pages for chat in page["items"]] == list(fresh.list_state())
    if chat_id:
        # A chat that is out of sight can be open.
        with suppress(ChatLost):
            fresh.open(await _call(socket, "activate_chat", chat_id=chat_id))
    return fresh


async def ask_for_unknown(model: ClientModel, socket: Socket) -> None:
    """Ask for the chats that came without the own part."""
    while ids := model.ids_to_ask():
        model.read_asked(ids, await _call(socket, "list_chats", ids=ids))


def check_equal(name: str, kept: ClientModel, fresh: ClientModel) -> None:
    """Compare a model kept up to date by events with a fresh one."""
    assert not kept.unknown, f"{name}: no answer or event had the own part of these chats"
    found = [*differences(kept.list_state(), fresh.list_state(), "chats")]
    found += differences(kept.window_state(), fresh.window_state(), "window")
    if fresh.unread:  # an earlier version has none
        found += differences(kept.count_unread(), fresh.unread, "unread")
    assert not found, f"{name}: kept differs from fresh:\n" + "\n".join(found)
    assert not kept.unknown_users(), f"{name}: no answer or event had these users"


def differences(kept: Any, fresh: Any, path: str) -> Iterator[str]:
    """The differences of two states, with both values."""
    if isinstance(kept, dict) and isinstance(fresh, dict) and kept.keys() == fresh.keys():
        for key in kept:
            yield from differences(kept[key], fresh[key], f"{path}.{key}")
    elif isinstance(kept, list) and isinstance(fresh, list) and len(kept) == len(fresh):
        for number, both in enumerate(zip(kept, fresh, strict=True)):
            yield from differences(*both, f"{path}[{number}]")
    elif kept != fresh:
        yield f"{path}: {kept!r}, not {fresh!r}"


async def list_chats(socket: Socket, **arguments: Any) -> list[Json]:
    """All pages of the chat list."""
    pages: list[Json] = []
    while not pages or pages[-1]["next_cursor"]:
        cursor = {"cursor": pages[-1]["next_cursor"]} if pages else {}
        pages.append(await _call(socket, "list_chats", **arguments, **cursor))
    return pages


async def catch_up(model: ClientModel, socket: Socket, limit: int) -> list[Json]:
    """Do what a client does after a reconnect, in pages of `limit`. Returns the pages of changes that it read.

    Events that arrive meanwhile have to be applied afterwards.
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
    """Read all pages of changes of the open chat, then its members, and after a reset its pinned messages.

    Returns the pages. Raises ChatLost.
    """
    pages: list[Json] = []
    while model.window and (not pages or pages[-1]["has_more"]):
        chat_id, since = model.window.chat_id, model.window.version
        pages.append(await _call(socket, "list_changes", chat_id=chat_id, since=since, limit=limit))
        if pages[-1]["reset"]:
            model.read_newest_page(await _call(socket, "list_messages", chat_id=chat_id))
            model.read_pinned(await _call(socket, "list_pinned_messages", chat_id=chat_id))
        else:
            model.read_changes(pages[-1])
    if model.window:
        model.read_members(await _call(socket, "list_members", chat_id=model.window.chat_id))
        await read_group(model, socket)
    return pages


async def read_group(model: ClientModel, socket: Socket) -> None:
    """Read the description of the open group if it changed."""
    if chat_id := model.group_to_read:
        model.read_group(await _call(socket, "get_group", chat_id=chat_id))


class ChatLost(Exception):
    """The person is not in the chat any more."""


async def _call(socket: Socket, command: str, **arguments: Any) -> Json:
    answer = await socket.call(command, arguments)
    if answer.code == "chat_not_found":
        raise ChatLost
    assert answer.ok, f"{command} {arguments}: {answer}"
    data: Json = answer.data
    return data
