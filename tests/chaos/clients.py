"""A client of a run: one session with one connection, which follows the rules of DESIGN §5 and records all it does.

It keeps the tests' reference client up to date, logs in anew when its session ends, connects again when it is cut off,
and catches up whenever it may have missed something.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlencode

import jwt
import orjson

from chat_app.live.catalog import COMMANDS
from tests.chaos import history
from tests.chaos.history import Json, Recorder
from tests.chaos.nodes import Node
from tests.chaos.wire import ConnectionEnded, Http, Refusal, Socket
from tests.client_model import ClientModel
from tests.operations import ROUTES

PREFIX = "/api/v1"
RETRY_SECONDS = 0.3
CHANGE_SECONDS = 2.0
# What says that this session, or its token, is of no use any more.
TOKEN_ENDED = {"token_expired", "session_revoked", "not_authenticated"}


@dataclass
class Answer:
    """`outcome` as in the history; the whole answer of a success, the code of a failure."""

    outcome: str
    status: int = 0
    code: str | None = None
    data: Any = None

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"


@dataclass
class Person:
    """A user; `passwords` that may be the right one, the likeliest first."""

    id: str
    phone: str
    passwords: list[str]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Client:
    """One device of a person."""

    def __init__(self, name: str, person: Person, nodes: list[Node], recorder: Recorder, random: Random) -> None:
        self.name, self.person, self.nodes, self.recorder, self.random = name, person, nodes, recorder, random
        self.node = random.choice(nodes)
        self.token = self.refresh_token = self.session = ""
        self.model = ClientModel(person.id)
        self.socket: Socket | None = None
        self.conn: str | None = None
        self.is_caught_up = asyncio.Event()
        self.is_ending = False
        self._connections = 0
        self._opened: set[str] = set()
        self._https = {node.name: Http(node.entrance) for node in nodes}
        # Held while the client reads what events follow on; those wait in `_held`, None: nothing is awaited.
        self._reading = asyncio.Lock()
        self._held: list[tuple[str, Json]] | None = None
        self._must_catch_up = asyncio.Event()
        self._change: asyncio.Future[str] | None = None

    async def over_http(self, name: str, args: Json, *, node: Node | None = None, **special: Any) -> Answer:
        """One operation by its route, recorded. `special`: a body, its type, a token, and args to record instead."""
        node, route = node or self.node, ROUTES[name]
        body, kind = special.get("body"), special.get("content_type", "application/json")
        arguments = {key: value for key, value in args.items() if value is not None or key in ("text", "title")}
        if body is None:
            body = orjson.dumps(route.body(arguments)) if route.content_type else b""
        op = self._invoke(name, special.get("recorded", args), node, None, special.get("session", self.session))
        try:
            token = special.get("token", self.token)
            status, content = await self._https[node.name].request(
                route.method, route.url(arguments), body, kind, token
            )
        except (ConnectionEnded, OSError, TimeoutError) as error:
            return self._end(op, name, Answer("unknown", code=_why(error)))
        data = orjson.loads(content) if content and status != 204 else None
        answer = _answer(status, data, data)
        return self._end(op, name, answer, is_own=special.get("is_own", True))

    async def over_socket(self, name: str, args: Json, *, recorded: Json | None = None) -> Answer:
        """One command, recorded."""
        socket = self.socket
        op = self._invoke(name, recorded or args, self.node, self.conn, self.session)
        try:
            if socket is None:
                raise ConnectionEnded
            ack = await socket.call(name, args)
        except (ConnectionEnded, TimeoutError) as error:
            return self._end(op, name, Answer("unknown", code=_why(error)))
        problem = ack.get("error") or {}
        return self._end(op, name, _answer(ack.get("status") or problem["status"], ack.get("data"), problem))

    def _invoke(self, name: str, args: Json, node: Node, conn: str | None, session: str) -> int:
        by = {"user": self.person.id, "session": session, "conn": conn, "node": node.name}
        return self.recorder.invoke(name, args, **by, via="socket" if conn else "http")

    def _end(self, op: int, name: str, answer: Answer, *, is_own: bool = True) -> Answer:
        kept = history.answer(name, answer.data) if answer.ok else {}
        if answer.ok and is_own and isinstance(answer.data, dict) and "access_token" in answer.data:
            kept = {"user": self.person.id, "session": self.session_of(answer.data)}
        fields = {"outcome": answer.outcome, "status": answer.status, "code": answer.code}
        self.recorder.write("return", op=op, data=kept, **fields)
        return answer

    async def do(self, name: str, args: Json, *, by_socket: bool) -> Answer:
        """One operation over either transport, where it has both."""
        if name in COMMANDS and self.socket is not None and (by_socket or name not in ROUTES):
            return await self.over_socket(name, args)
        if name not in ROUTES:
            return Answer("failed", code="not_connected")
        answer = await self.over_http(name, args)
        if answer.code in TOKEN_ENDED:
            await self.renew(answer.code)
        return answer

    async def log_in(self) -> None:
        """Open a session, with whichever password is right by now."""
        async with self.person.lock:
            passwords = list(self.person.passwords)
        for password in passwords:
            answer = await self.login(password)
            if answer.ok:
                self.take_tokens(answer.data)
                return

    async def login(self, password: str) -> Answer:
        form = urlencode({"username": self.person.phone, "password": password}).encode()
        special = {"body": form, "content_type": "application/x-www-form-urlencoded", "session": "", "token": None}
        return await self.over_http(
            "login", {}, recorded={"password": password}, node=self.random.choice(self.nodes), **special
        )

    async def refresh(self) -> Answer:
        answer = await self.over_http("refresh", {"refresh_token": self.refresh_token}, recorded={}, token=None)
        if answer.ok:
            self.take_tokens(answer.data)
        return answer

    def take_tokens(self, tokens: Json) -> None:
        self.token, self.refresh_token = tokens["access_token"], tokens["refresh_token"]
        self.session = self.session_of(tokens)

    @staticmethod
    def session_of(tokens: Json) -> str:
        """The id of the session that tokens speak for."""
        session: str = jwt.decode(tokens["access_token"], options={"verify_signature": False})["sid"]
        return session

    async def renew(self, code: str | None) -> None:
        """The token is of no use any more: refresh it, or log in."""
        if code == "token_expired" and (await self.refresh()).ok:
            return
        await self.log_in()

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
        op = self._invoke("connect", {}, self.node, None, self.session)
        self._held, self.conn = [], conn
        session, active = self.session, self.model.open_chat_id
        about = {"conn": conn, "user": self.person.id, "session": session, "node": self.node.name}
        socket = Socket(lambda name, data: self._on_event(about | {"active": active}, name, data), self._on_close(conn))
        try:
            await socket.connect(self.node.entrance, {"token": self.token, "active_chat_id": active})
        except Refusal as refusal:
            problem = refusal.problem
            answer = _answer(problem.get("status", 401), None, problem)
            self._end(op, "connect", answer)
            if answer.code in TOKEN_ENDED:
                await self.renew(answer.code)
        except (ConnectionEnded, OSError, TimeoutError) as error:
            self._end(op, "connect", Answer("unknown", code=_why(error)))
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
        if self.model.window and self.model.window.has_gap:
            self._warn()

    async def _catch_up(self) -> bool:
        """What the rules say for every `ready` and `resync_required`; false if it has to be tried again."""
        async with self._reading:
            self._held = self._held or []
            try:
                is_done = await self._read_list() and await self._read_window()
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
            elif answer.ok:
                self.model.read_changes(answer.data)
                if answer.data["has_more"]:
                    continue
            if answer.ok:
                answer = await self.over_socket("list_members", {"chat_id": chat_id})
                if answer.ok and self.model.window:
                    self.model.read_members(answer.data)
            if answer.code == "chat_not_found":
                self.model.window = None
            return answer.ok or answer.code == "chat_not_found"
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
                    # Without an answer nobody knows which chat is open now: a new connection says it.
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
        for http in self._https.values():
            http.close()


def _answer(status: int, data: Any, problem: Any) -> Answer:
    """A 503 says nothing: the commit may have happened and its answer been lost."""
    if 200 <= status < 300:
        return Answer("ok", status, None, data)
    code = problem.get("code") if isinstance(problem, dict) else None
    return Answer("unknown" if status >= 500 else "failed", status, code)


def _why(error: BaseException) -> str:
    return "timeout" if isinstance(error, TimeoutError) else "closed"
