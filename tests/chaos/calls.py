"""How a client of a run asks: over HTTP and over its socket, each request recorded with what became of it."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlencode

import jwt
import orjson

from chat_app.live.commands import COMMANDS
from tests.chaos import history
from tests.chaos.history import Json, Recorder
from tests.chaos.nodes import Node
from tests.chaos.wire import ConnectionEnded, HttpPool, Socket
from tests.operations import ROUTES

# These codes mean that the session, or its token, has ended.
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


class Caller:
    """A session of a person, renewed as needed, and perhaps a connection."""

    def __init__(self, name: str, person: Person, nodes: list[Node], recorder: Recorder, random: Random) -> None:
        self.name, self.person, self.nodes, self.recorder, self.random = name, person, nodes, recorder, random
        self.node = random.choice(nodes)
        self.token = self.refresh_token = self.session = ""
        self.socket: Socket | None = None
        self.conn: str | None = None
        self._pools = {node.name: HttpPool(node.entrance) for node in nodes}
        self._renewal: asyncio.Task[None] | None = None

    async def over_http(self, name: str, args: Json, *, node: Node | None = None, **special: Any) -> Answer:
        """One operation by its route, recorded. `special`: a body, its type, a token, and args to record instead."""
        node, route = node or self.node, ROUTES[name]
        body, kind = special.get("body"), special.get("content_type", "application/json")
        arguments = {key: value for key, value in args.items() if value is not None or key in ("text", "title")}
        if body is None:
            body = orjson.dumps(route.body(arguments)) if route.content_type else b""
        # It begins when it is sent, and with the session of that time.
        async with self._pools[node.name].free() as http:
            op = self.invoke(name, special.get("recorded", args), node, None, special.get("session", self.session))
            try:
                token = special.get("token", self.token)
                status, content = await http.request(route.method, route.url(arguments), body, kind, token)
            except (ConnectionEnded, OSError, TimeoutError) as error:
                return self.end(op, name, Answer("unknown", code=why(error)))
        data = json_of(content)
        answer = answer_of(status, data, data)
        return self.end(op, name, answer, is_own=special.get("is_own", True))

    async def over_socket(self, name: str, args: Json, *, recorded: Json | None = None) -> Answer:
        """One command, recorded."""
        socket = self.socket
        op = self.invoke(name, recorded or args, self.node, self.conn, self.session)
        try:
            if socket is None:
                raise ConnectionEnded
            ack = await socket.call(name, args)
        except (ConnectionEnded, TimeoutError) as error:
            return self.end(op, name, Answer("unknown", code=why(error)))
        problem = ack.get("error") or {}
        return self.end(op, name, answer_of(ack.get("status") or problem["status"], ack.get("data"), problem))

    def invoke(self, name: str, args: Json, node: Node, conn: str | None, session: str) -> int:
        by = {"user": self.person.id, "session": session, "conn": conn, "node": node.name}
        return self.recorder.invoke(name, args, **by, via="socket" if conn else "http")

    def end(self, op: int, name: str, answer: Answer, *, is_own: bool = True) -> Answer:
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
        """The token is of no use any more: refresh it, or log in, once for all that ask at the same time."""
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(code))
        await self._renewal

    async def _renew(self, code: str | None) -> None:
        if code == "token_expired" and (await self.refresh()).ok:
            return
        await self.log_in()


def answer_of(status: int, data: Any, problem: Any) -> Answer:
    """A 503 is an unknown outcome: the commit may have happened and its answer been lost."""
    if 200 <= status < 300:
        return Answer("ok", status, None, data)
    code = problem.get("code") if isinstance(problem, dict) else None
    return Answer("unknown" if status >= 500 else "failed", status, code)


def json_of(content: bytes) -> Any:
    """What a body says; None if it is empty, or no JSON, as where something else than the service answers."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(content)
    return None


def why(error: BaseException) -> str:
    return "timeout" if isinstance(error, TimeoutError) else "closed"
