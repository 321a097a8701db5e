"""The Socket.IO door: who may connect, what becomes of each packet, and when a connection ends."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import socketio
from pydantic import ValidationError
from sqlmodel.ext.asyncio.session import AsyncSession

from chat_app import logs
from chat_app.auth import authenticate_connection
from chat_app.crud import access, sessions
from chat_app.crud.entries import read_sync
from chat_app.db import Database
from chat_app.errors import ChatError, ChatNotFound, Internal, InvalidInput, NotAuthenticated, UnknownCommand
from chat_app.events import Ready, SessionEnded
from chat_app.limits import Limits
from chat_app.live.catalog import COMMANDS
from chat_app.live.commands import Answer
from chat_app.live.connections import Connection, Connections
from chat_app.live.fanout import Fanout, encode
from chat_app.live.presence import Presence
from chat_app.live.wire import ChatServer
from chat_app.logs import log
from chat_app.models.base import LIMITS, Input
from chat_app.models.sessions import Actor

SWEEP_SECONDS = 2
# The greatest packet that a client may send: a text of 8,000 characters of 4 bytes each, escaped, fits well.
MOST_PACKET_BYTES = 256 * 1024


class Handshake(Input):
    """What a client sends as `auth` when it connects."""

    token: str
    active_chat_id: UUID | None = None


class Live:
    """All that lives behind the Socket.IO path of one process."""

    def __init__(
        self, database: Database, limits: Limits, allow_origin: Callable[[str | None, dict[str, Any]], bool]
    ) -> None:
        self.database = database
        self.limits = limits
        self.connections = Connections()
        self.presence = Presence(self.connections, database)
        self.fanout = Fanout(self.connections, end=self._end, tell=self.presence.tell)
        self.server = ChatServer(
            self.connections,
            cors_allowed_origins=allow_origin,
            max_http_buffer_size=MOST_PACKET_BYTES,
            http_compression=False,
        )
        self.server.dispatch = self._dispatch
        self.server.connected = self._connected
        self.server.on("connect", self._connect)
        self.server.on("disconnect", self._disconnect)
        self._ready: dict[str, str] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def _connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        logs.bind_request(request_id=logs.new_request_id(environ.get("HTTP_X_REQUEST_ID")), command="connect")
        log.info("received")
        try:
            self.limits.check("connect", address=(environ["asgi.scope"].get("client") or [None])[0])
            await self._admit(self.server.engine_id(sid), auth)
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
            async with self.database.transaction() as session:
                actor = await authenticate_connection(session, handshake.token)
                _, row = await sessions.check_session(session, actor)
                connection = Connection(connection_id, actor, self.server, row.expires_at, self.connections)
                # Known from here on, so that nothing that happens while it reads is missed.
                self.connections.add(connection)
                await _choose_active(session, connection, handshake, row.active_chat_id)
                self._ready[connection_id] = await _ready(session, connection)
        except BaseException:
            self._forget(connection_id)
            raise

    def _connected(self, connection: Connection) -> None:
        ready = self._ready.pop(connection.id, None)
        if ready is not None:
            connection.start(ready)
            self.presence.came(connection)
            log.info("connected", connections=len(self.connections))

    async def _disconnect(self, sid: str, reason: str) -> None:
        connection = self.connections.get(self.server.engine_id(sid))
        if connection is not None:
            self._forget(connection.id)
            self.presence.went(connection.actor.id)
            logs.bind_request(user=connection.actor.id, session=connection.actor.session_id)
            log.info("disconnected", reason=reason, connections=len(self.connections))

    def _forget(self, connection_id: str) -> None:
        self.connections.remove(connection_id)
        self._ready.pop(connection_id, None)

    async def _dispatch(self, connection: Connection, packet: Any) -> str:
        """Run one command; whatever comes, the answer is an ack."""
        started = time.perf_counter()
        name = _name(packet)
        logs.bind_request(
            request_id=logs.new_request_id(),
            command=name,
            user=connection.actor.id,
            session=connection.actor.session_id,
        )
        log.info("received")
        try:
            status, data = await self._run(connection, name, packet)
            answer = f'{{"ok":true,"status":{status},"data":{data},"request_id":"{logs.request_id()}"}}'
            code = "ok"
        except Exception as error:
            problem = error if isinstance(error, ChatError) else Internal()
            if problem is not error:
                logs.log_crash(error)
            answer = orjson.dumps({"ok": False, "error": problem.problem(logs.request_id())}).decode()
            status, code = problem.status, problem.code
        log.info("answered", status=status, code=code, ms=round((time.perf_counter() - started) * 1000, 1))
        return answer

    async def _run(self, connection: Connection, name: str | None, packet: Any) -> tuple[int, str]:
        if not isinstance(packet, list):
            raise InvalidInput.at("", "not_a_list", "An event is a list of a name and one object, as JSON.")
        if name is None:
            raise UnknownCommand
        command = COMMANDS[name]
        self.limits.check(name, user=connection.actor.id)
        try:
            data = command.input.validate_python(_argument(packet))
        except ValidationError as error:
            raise InvalidInput.found(error.errors(include_input=False)) from error
        chat_id = getattr(data, "chat_id", None)
        logs.bind(chat=chat_id or connection.active_chat_id)
        log.info("authorized")
        former_chat_id = connection.active_chat_id
        async with self.database.transaction() as session:
            result = await command.handler(session, connection, data)
        if connection.active_chat_id not in (None, former_chat_id):
            self.presence.opened(connection)
        if result is None or command.output is None:
            return 204, "null"
        answer = result if isinstance(result, Answer) else Answer(200, result)
        return answer.status, command.output.dump_json(answer.data).decode()

    def _end(self, connection: Connection) -> None:
        """Tell a connection that its session is over, and close it."""
        self._forget(connection.id)
        self.presence.went(connection.actor.id)
        connection.send(encode(SessionEnded(code="session_revoked")))
        task = asyncio.get_running_loop().create_task(self.server.end(connection.id))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def sweep(self) -> None:
        """Close what no event closed: sessions that ran out, or were ended by another process."""
        since = datetime.now(UTC) - timedelta(hours=1)
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                since = await self._sweep(since)
            except ChatError:
                continue  # the database is away, as was logged; the next round looks back as far as needed

    async def _sweep(self, since: datetime) -> datetime:
        now = datetime.now(UTC)
        async with self.database.transaction() as session:
            revoked, until = await sessions.list_revoked(session, since)
            expiring = {c.actor.session_id for c in self.connections if c.expires_at <= now}
            standing = await sessions.read_expiry(session, expiring)
        for connection in self.connections:
            session_id = connection.actor.session_id
            connection.expires_at = standing.get(session_id, connection.expires_at)
            if session_id in revoked or (session_id in expiring and session_id not in standing):
                self._end(connection)
        return until


def _handshake(auth: Any) -> Handshake:
    if not isinstance(auth, dict) or not auth.get("token"):
        raise NotAuthenticated
    try:
        return Handshake.model_validate(auth)
    except ValidationError as error:
        raise InvalidInput.found(error.errors(include_input=False)) from error


async def _choose_active(
    session: AsyncSession, connection: Connection, handshake: Handshake, session_chat_id: UUID | None
) -> None:
    """From the handshake, else the session's; one that is not one's own chat is none."""
    if "active_chat_id" in handshake.model_fields_set:
        connection.choose_chat(handshake.active_chat_id)
    else:
        connection.active_chat_id = session_chat_id
    if connection.active_chat_id is None:
        return
    try:
        await access.view_chat(session, connection.actor, connection.active_chat_id)
    except ChatNotFound:
        connection.active_chat_id = None


async def _ready(session: AsyncSession, connection: Connection) -> str:
    actor: Actor = connection.actor
    return encode(
        Ready(
            user_id=actor.id,
            session_id=actor.session_id,
            active_chat_id=connection.active_chat_id,
            sync=await read_sync(session, actor.id),
            limits=LIMITS,
            server_time=datetime.now(UTC),
        )
    )


def _name(packet: Any) -> str | None:
    """The command that is meant; None if there is no such one, as what else was sent is not for the log."""
    is_named = isinstance(packet, list) and packet and isinstance(packet[0], str)
    return packet[0] if is_named and packet[0] in COMMANDS else None


def _argument(packet: list[Any]) -> Any:
    """The one argument of a command; a missing one is empty."""
    if len(packet) > 2:
        raise InvalidInput.at("", "too_many_arguments", "A command takes one object.")
    return packet[1] if len(packet) == 2 else {}
