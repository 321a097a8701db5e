"""The Socket.IO door: who may connect, what becomes of each packet, and when a connection ends."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import socketio
from pydantic import ValidationError

from chat_app import logs, metrics
from chat_app.auth import authenticate
from chat_app.crud import access, sessions
from chat_app.crud.entries import read_sync
from chat_app.crud.messages import Sent
from chat_app.crud.outbox import Outbox
from chat_app.database import Database, Db
from chat_app.errors import ChatError, ChatNotFound, Internal, InvalidInput, NotAuthenticated, UnknownCommand
from chat_app.events import Ready, SessionEnded
from chat_app.limits import Limits
from chat_app.live.commands import COMMANDS
from chat_app.live.connections import Connection, Connections, Packet
from chat_app.live.fanout import encode
from chat_app.live.presence import Presence
from chat_app.live.wire import ChatServer, address_of
from chat_app.logs import log
from chat_app.models.answers import status_and_data
from chat_app.models.base import LIMITS, Input
from chat_app.models.sessions import Actor
from chat_app.models.wire_json import as_json

SWEEP_SECONDS = 2
CHECK_SECONDS = 0.25


class Handshake(Input):
    """What a client sends as `auth` when it connects."""

    token: str
    active_chat_id: UUID | None = None


class Call:
    """One command, and what each of its log lines says."""

    __slots__ = ("connection", "id", "log_values", "name", "started")

    def __init__(self, connection: Connection, name: str | None) -> None:
        self.connection = connection
        self.name = name
        self.started = time.perf_counter()
        self.id = logs.new_request_id()
        self.log_values: dict[str, Any] = {"request_id": self.id, "command": name, **connection.about}
        logs.line("received", self.log_values)

    def authorize(self, chat_id: UUID | None) -> None:
        """Log that it may be run, on this chat."""
        self.log_values["chat"] = chat_id
        logs.line("authorized", self.log_values)

    def succeed(self, status: int, data: Any) -> bytes:
        self._log(status, "ok")
        return as_json({"ok": True, "status": status, "data": data, "request_id": self.id})

    def fail(self, error: Exception) -> bytes:
        problem = error if isinstance(error, ChatError) else Internal()
        if problem is not error:
            logs.log_crash(error)
        self._log(problem.status, problem.code)
        return orjson.dumps({"ok": False, "error": problem.problem(self.id)})

    def _log(self, status: int, code: str) -> None:
        seconds = time.perf_counter() - self.started
        metrics.observe_command(self.name, code, seconds)
        logs.line("answered", {**self.log_values, "status": status, "code": code, "ms": round(seconds * 1000, 1)})


class Live:
    """All that lives behind the Socket.IO path of one process."""

    def __init__(
        self,
        database: Database,
        limits: Limits,
        outbox: Outbox,
        connections: Connections,
        presence: Presence,
        allow_origin: Callable[[str | None, dict[str, Any]], bool],
        *,
        is_alone: bool = True,
    ) -> None:
        self.database = database
        self.limits = limits
        self.outbox = outbox
        self.connections = connections
        self.presence = presence
        self.server = ChatServer(
            self.connections,
            limits,
            cors_allowed_origins=allow_origin,
            http_compression=False,
            # Of several nodes each would get some of the requests of one client.
            transports=None if is_alone else ["websocket"],
        )
        self.server.dispatch, self.server.dispatch_now = self._dispatch, self._dispatch_draft
        self.server.connected, self.server.lost = self._connected, self._lost
        self.server.on("connect", self._connect)
        self.server.on("disconnect", self._disconnect)
        self._ready: dict[str, Packet] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        logs.bind_request(request_id=logs.new_request_id(environ.get("HTTP_X_REQUEST_ID")), command="connect")
        log.info("received")
        try:
            connection_id = self.server.engine_id(sid)
            self.limits.check("connect", address=address_of(environ))
            self.limits.check_connections(address=self.server.transports.beside(connection_id))
            await self._admit(connection_id, auth)
        except ChatError as error:
            log.info("refused", code=error.code)
            raise socketio.exceptions.ConnectionRefusedError(error.detail, error.problem(logs.request_id())) from error
        except Exception as error:
            logs.log_crash(error)
            problem = Internal().problem(logs.request_id())
            raise socketio.exceptions.ConnectionRefusedError(Internal().detail, problem) from error

    async def _admit(self, connection_id: str, auth: Any) -> None:
        handshake = _handshake(auth)
        try:
            async with self.database.reading() as db:
                actor, active_chat_id = await authenticate(db, handshake.token)
                # Nothing is waited for from here to the next one that is added: two at once count each other.
                self.limits.check_connections(
                    session=len(self.connections.of_session(actor.session_id)),
                    user=len(self.connections.of_user(actor.id)),
                )
                connection = Connection(connection_id, actor, self.server, self.connections, self._end)
                # Known from here on, so that nothing that happens while it reads is missed.
                self.connections.add(connection)
                await _choose_active(db, connection, handshake, active_chat_id)
                self._ready[connection_id] = await _ready(db, connection)
        except BaseException:
            self._forget(connection_id)
            raise

    def _connected(self, connection: Connection) -> None:
        ready = self._ready.pop(connection.id, None)
        if ready is not None:
            connection.start(ready)
            self.presence.joined(connection)
            log.info("connected", connections=len(self.connections))

    async def _disconnect(self, sid: str, reason: str) -> None:
        self._lost(self.server.engine_id(sid), reason)

    def _lost(self, connection_id: str, reason: str) -> None:
        connection = self._forget(connection_id)
        if connection is None:
            return
        about = {"user": connection.actor.id, "session": connection.actor.session_id}
        log.info("disconnected", reason=reason, connections=len(self.connections), **about)

    def _forget(self, connection_id: str) -> Connection | None:
        connection = self.connections.get(connection_id)
        self.connections.remove(connection_id)
        # Its login may have gone on after its session had ended.
        self._ready.pop(connection_id, None)
        # Before the start of the connection its user was not announced as online.
        if connection is not None and connection.is_started:
            self.presence.left(connection.actor.id)
        return connection

    async def _dispatch(self, connection: Connection, packet: Any) -> bytes:
        """Run one command; whatever comes, the answer is an ack."""
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self._dispatch_draft(connection, packet, answered.set_result):
            return await answered
        call = Call(connection, _name(packet))
        logs.bind_request(**call.log_values)
        try:
            return call.succeed(*await self._run(call, packet))
        except Exception as error:
            return call.fail(error)

    def _dispatch_draft(self, connection: Connection, packet: Any, answer: Callable[[bytes], None]) -> bool:
        """Begin with a command that makes a message: `answer` is called after its commit. False: it is another one."""
        name = _name(packet)
        if name is None or not COMMANDS[name].is_draft:
            return False
        call = Call(connection, name)

        def done(result: Sent | ChatError) -> None:
            if isinstance(result, ChatError):
                answer(call.fail(result))
            else:
                answer(call.succeed(201 if result.is_new else 200, orjson.Fragment(result.json)))

        try:
            draft = COMMANDS[name].handler(connection, self._argument(call, packet))
            call.authorize(draft.chat_id)
        except Exception as error:
            answer(call.fail(error))
        else:
            self.outbox.put(draft, done, call.id)
        return True

    def _argument(self, call: Call, packet: Any) -> Any:
        """What the command is to be run with. Raises RateLimited, InvalidInput."""
        if not isinstance(packet, list):
            raise InvalidInput.at("", "not_a_list", "An event is a list of a name and one object, as JSON.")
        if call.name is None:
            raise UnknownCommand
        self.limits.check(call.name, user=call.connection.actor.id)
        if len(packet) > 2:
            raise InvalidInput.at("", "too_many_arguments", "A command takes one object.")
        try:
            return COMMANDS[call.name].validate(packet[1] if len(packet) == 2 else {})
        except ValidationError as error:
            raise InvalidInput.found(error.errors(include_input=False)) from error

    async def _run(self, call: Call, packet: Any) -> tuple[int, Any]:
        data, connection = self._argument(call, packet), call.connection
        command = COMMANDS[call.name or ""]
        chat_id = getattr(data, "chat_id", None) or connection.active_chat_id
        logs.bind(chat=chat_id)
        call.authorize(chat_id)
        former_chat_id = connection.active_chat_id
        opened: Any = self.database.reading() if command.reads else self.database.transaction()
        with connection.choosing():
            async with opened as db:
                result = await command.handler(db, connection, data)
        if connection.active_chat_id not in (None, former_chat_id):
            self.presence.opened(connection)
        return status_and_data(result)

    def _end(self, connection: Connection) -> None:
        """Tell a connection that its session is over, and close it."""
        self._forget(connection.id)
        connection.send(encode(SessionEnded(code="session_revoked")))
        task = asyncio.get_running_loop().create_task(self.server.end(connection.id))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def sweep(self) -> None:
        """Close what no event closed: sessions that expired, were ended elsewhere, or are of deactivated users."""
        session_ids = {connection.actor.session_id for connection in self.connections}
        async with self.database.reading() as db:
            ended = await sessions.list_ended(db, session_ids)
        for connection in self.connections:
            if connection.actor.session_id in ended:
                self._end(connection)


def _handshake(auth: Any) -> Handshake:
    if not isinstance(auth, dict) or not auth.get("token"):
        raise NotAuthenticated
    try:
        return Handshake.model_validate(auth)
    except ValidationError as error:
        raise InvalidInput.found(error.errors(include_input=False)) from error


async def _choose_active(db: Db, connection: Connection, handshake: Handshake, session_chat_id: UUID | None) -> None:
    """From the handshake, else the session's; one that is not one's own chat is none."""
    connection.chose_chat = "active_chat_id" in handshake.model_fields_set
    chat_id = handshake.active_chat_id if connection.chose_chat else session_chat_id
    # Subscribed before it reads. Until the version is known, any removal closes the chat.
    connection.open_chat(chat_id, 0)
    opened, version = connection.active, 0
    if chat_id is None:
        return
    try:
        version = (await access.view_chat(db, connection.actor, chat_id)).version
    except ChatNotFound:
        chat_id = None
    if connection.active == opened:
        connection.open_chat(chat_id, version)


async def _ready(db: Db, connection: Connection) -> Packet:
    actor: Actor = connection.actor
    return encode(
        Ready(
            user_id=actor.id,
            session_id=actor.session_id,
            active_chat_id=connection.active_chat_id,
            sync=await read_sync(db, actor.id),
            limits=LIMITS,
            server_time=datetime.now(UTC),
        )
    )


def _name(packet: Any) -> str | None:
    """The command that is meant; None if there is no such one, as what else was sent is not for the log."""
    is_named = isinstance(packet, list) and packet and isinstance(packet[0], str)
    return packet[0] if is_named and packet[0] in COMMANDS else None
