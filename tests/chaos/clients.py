"""A client of a run: one session with one connection, which follows the rules of DESIGN §5 and records all it does.

It keeps the tests' reference client up to date, logs in anew when its session ends, connects again when it is cut off,
and catches up whenever it may have missed something.
"""

import asyncio
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

from tests.chaos import history
from tests.chaos.calls import TOKEN_ENDED, Answer, Caller, Person, answer_of, why
from tests.chaos.history import Json, Recorder
from tests.chaos.nodes import Node
from tests.chaos.wire import ConnectionEnded, Refusal, Socket
from tests.client_model import ClientModel

RETRY_SECONDS = 0.3
CHANGE_SECONDS = 2.0


class Client(Caller):
    """One device of a person."""

    def __init__(self, name: str, person: Person, nodes: list[Node], recorder: Recorder, random: Random) -> None:
        super().__init__(name, person, nodes, recorder, random)
        self.model = ClientModel(person.id)
        self.is_caught_up = asyncio.Event()
        self.is_ending = False
        self._connections = 0
        self._opened: set[str] = set()
        # Held while the client reads what events follow on; those wait in `_held`, None: nothing is awaited.
        self._reading = asyncio.Lock()
        self._held: list[tuple[str, Json]] | None = None
        self._must_catch_up = asyncio.Event()
        self._change: asyncio.Future[str] | None = None

    async def stay_connected(self) -> None:
        """Connect, catch up, and again whenever the connection ends, until cancelled."""
        while not self.is_ending:
            if self.socket is None:
                await self._connect()
            if self.socket is None:
                await asyncio.sleep(RETRY_SECONDS * (0.5 + self.random.random()))
                continue
            await self._must_catch_up.wait()
            self._must_catch_up.clear()
            if self.socket is not None and not await self._catch_up():
                self._must_catch_up.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def next_change(self) -> str | None:
        """The chat of the next `messages_changed`, if one comes soon."""
        self._change = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.wait_for(self._change, CHANGE_SECONDS)
        except TimeoutError:
            return None

    async def _connect(self) -> None:
        if not self.token:
            await self.log_in()
            if not self.token:
                return
        self.node = self.random.choice(self.nodes)
        self._connections += 1
        conn = f"{self.name}.{self._connections}"
        op = self.invoke("connect", {}, self.node, None, self.session)
        self._held, self.conn = [], conn
        session, active = self.session, self.model.open_chat_id
        about = {"conn": conn, "user": self.person.id, "session": session, "node": self.node.name, "active": active}
        socket = Socket(partial(self._on_event, about), self._on_close(conn))
        try:
            await socket.connect(self.node.entrance, {"token": self.token, "active_chat_id": active})
        except Refusal as refusal:
            problem = refusal.problem
            answer = answer_of(problem.get("status", 401), None, problem)
            self.end(op, "connect", answer)
            if answer.code in TOKEN_ENDED:
                await self.renew(answer.code)
        except (ConnectionEnded, OSError, TimeoutError) as error:
            self.end(op, "connect", Answer("unknown", code=why(error)))
        else:
            self.recorder.write("return", op=op, outcome="ok", status=200, data={"conn": conn})
            if socket.is_open:
                self.socket = socket
                self._must_catch_up.set()
            return
        self.conn = None

    def _on_close(self, conn: str) -> Any:
        def on_close(why: str) -> None:
            if conn in self._opened:
                self.recorder.write("close", conn=conn, why=why)
            if self.conn == conn:
                self.socket = self.conn = None
                self.is_caught_up.clear()
                self._must_catch_up.set()

        return on_close

    def _on_event(self, about: Json, name: str, data: Json) -> None:
        if name == "ready":
            self.recorder.write("open", **about | {"active": data["active_chat_id"]})
            self._opened.add(about["conn"])
            if data["active_chat_id"] is None:
                self.model.window = None
            return
        self.recorder.write("event", conn=about["conn"], name=name, data=history.event(name, data))
        if name == "messages_changed" and self._change is not None and not self._change.done():
            self._change.set_result(data["chat_id"])
        if name == "session_revoked":
            self.token = ""
        elif name == "resync_required":
            self._warn()
        elif about["conn"] == self.conn:
            self._held.append((name, data)) if self._held is not None else self._apply(name, data)

    def _warn(self) -> None:
        self.is_caught_up.clear()
        self._must_catch_up.set()

    def _apply(self, name: str, data: Json) -> None:
        self.model.receive(name, data)
        if self.model.unknown or self.model.group_to_read or (self.model.window and self.model.window.has_gap):
            self._warn()

    async def _catch_up(self) -> bool:
        """Catch up, as after every `ready` and `resync_required`; false if it has to be tried again."""
        async with self._reading:
            self._held = self._held or []
            try:
                is_done = await self._read_list() and await self._read_window() and await self._ask_for_unknown()
            finally:
                self._release()
        if is_done and not self._must_catch_up.is_set():
            self.is_caught_up.set()
        return is_done

    def _release(self) -> None:
        held, self._held = self._held or [], None
        for name, data in held:
            self._apply(name, data)

    async def _read_list(self) -> bool:
        pages: list[Json] = []
        former = self.model.sync
        since = {"changed_since": former} if former else {}
        while not pages or pages[-1]["next_cursor"]:
            cursor = {"cursor": pages[-1]["next_cursor"]} if pages else {}
            answer = await self.over_socket("list_chats", since | cursor | {"limit": 100})
            if not answer.ok:
                return False
            pages.append(answer.data)
        self.model.read_list(pages, former)
        return True

    async def _read_window(self) -> bool:
        while self.model.window:
            chat_id, since = self.model.window.chat_id, self.model.window.version
            answer = await self.over_socket("list_changes", {"chat_id": chat_id, "since": since})
            if answer.ok and answer.data["reset"]:
                answer = await self.over_socket("list_messages", {"chat_id": chat_id})
                if answer.ok:
                    self.model.read_newest_page(answer.data)
                    answer = await self.over_socket("list_pinned_messages", {"chat_id": chat_id})
                    # Nodes of the former release do not have the command.
                    if answer.ok and self.model.window:
                        self.model.read_pinned(answer.data)
            elif answer.ok:
                self.model.read_changes(answer.data)
                if answer.data["has_more"]:
                    continue
            if answer.ok:
                answer = await self.over_socket("list_members", {"chat_id": chat_id})
                if answer.ok and self.model.window:
                    self.model.read_members(answer.data)
            if answer.ok and self.model.group_to_read:
                answer = await self.over_socket("get_group", {"chat_id": chat_id})
                if answer.ok:
                    self.model.read_group(answer.data)
            if answer.code == "chat_not_found":
                self.model.window = None
            return answer.ok or answer.code == "chat_not_found"
        return True

    async def _ask_for_unknown(self) -> bool:
        """Ask for the chats that came without the own part."""
        while ids := self.model.ids_to_ask():
            answer = await self.over_socket("list_chats", {"ids": ids})
            if not answer.ok:
                return False
            self.model.read_asked(ids, answer.data)
        return True

    async def activate(self, chat_id: str | None) -> Answer:
        """Open a chat; events that come before the answer wait for it."""
        if self._reading.locked():
            return Answer("failed", code="busy")
        async with self._reading:
            self._held = self._held or []
            try:
                answer = await self.over_socket("activate_chat", {"chat_id": chat_id})
                if answer.ok and answer.data:
                    self.model.open(answer.data)
                elif answer.ok:
                    self.model.window = None
                elif answer.outcome == "unknown" and answer.status != 503:
                    # Without an answer the open chat is unknown: a new connection gets it in `ready`.
                    self.model.window = None
                    self.cut()
            finally:
                self._release()
        return answer

    def cut(self) -> None:
        if self.socket is not None:
            self.socket.transport.abort()

    async def close(self) -> None:
        self.is_ending = True
        if self.socket is not None:
            with suppress(OSError):
                self.socket.close()
        for pool in self._pools.values():
            pool.close()
