"""The application behind the Socket.IO server: logins, commands, and the end of sessions."""

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError
from sqlmodel import Field

from chat_app import logs, metrics, tracing
from chat_app.auth import authenticate
from chat_app.background import Background
from chat_app.crud import access, sessions
from chat_app.crud.entries import read_sync
from chat_app.crud.messages import Draft, Sent
from chat_app.crud.outbox import Outbox
from chat_app.crud.presence import is_online, list_peers
from chat_app.database import Database, Db
from chat_app.errors import ChatError, ChatNotFound, InvalidInput, NotAuthenticated, UnknownCommand
from chat_app.events import Ready, SessionEnded
from chat_app.limits import Limits
from chat_app.live.commands import COMMANDS
from chat_app.live.connections import Connection, Connections, Opened
from chat_app.live.engine.sockets import Socket
from chat_app.live.fanout import encode
from chat_app.live.presence import Presence
from chat_app.media.links import at_host
from chat_app.models.answers import status_and_data
from chat_app.models.base import LIMITS, Input
from chat_app.models.wire_json import as_json

SESSION_CHECK_SECONDS = 2


class Handshake(Input):
    """The `auth` object of a connecting client."""

    token: str = Field(description="The `access_token`, without `Bearer`.")
    active_chat_id: UUID | None = None


class Call:
    """One command: its log lines, its span and its ack."""

    def __init__(self, connection: Connection, event: Any, respond: Callable[[bytes], None]) -> None:
        self.connection = connection
        is_named = isinstance(event, list) and event and isinstance(event[0], str)
        # None for an unknown command: its name is not logged.
        self.name: str | None = event[0] if is_named and event[0] in COMMANDS else None
        self._respond = respond
        self.started = time.perf_counter()
        self.id = logs.new_request_id()
        self.span = tracing.begin(self.name, self.id, connection.socket.traceparent)
        self.log_values: dict[str, Any] = {"request_id": self.id, "command": self.name, **connection.log_values}
        logs.line("received", self.log_values)

    def succeed(self, status: int, data: Any) -> None:
        self._finish(status, "ok", {"ok": True, "status": status, "data": data, "request_id": self.id})

    def fail(self, error: Exception) -> None:
        problem = logs.as_chat_error(error, **self.log_values)
        self.log_values.update(problem.reasons())
        self._finish(problem.status, problem.code, {"ok": False, "error": problem.problem(self.id)})

    def _finish(self, status: int, code: str, ack: dict[str, Any]) -> None:
        json, seconds = at_host(as_json(ack), self.connection.socket.host), time.perf_counter() - self.started
        metrics.command_seconds(self.name or "unknown", code).observe(seconds)
        tracing.end(self.span, status, code)
        logs.log_answered({**self.log_values, "status": status, "ms": round(seconds * 1000, 1)}, {})
        self._respond(json)

    def send(self, result: Sent | ChatError) -> None:
        """Respond with the outcome of a message."""
        if isinstance(result, ChatError):
            self.fail(result)
        else:
            self.log_values["seq"] = result.seq
            self.succeed(201 if result.is_new else 200, orjson.Fragment(result.data))


@dataclass
class Live:
    """The application behind the Socket.IO path of one process."""

    database: Database
    limits: Limits
    outbox: Outbox
    connections: Connections
    presence: Presence
    _background: Background = field(default_factory=Background, init=False)

    async def log_in(self, socket: Socket, auth: Any) -> None:
        """Make a connection, which is started once its client knows. Raises ChatError."""
        self.limits.check("connect", address=socket.address)
        self.limits.check_connections(address=socket.count)
        if not isinstance(auth, dict) or not auth.get("token"):
            raise NotAuthenticated(socket.misplaced)
        handshake: Handshake = _valid(Handshake.model_validate, auth)
        try:
            async with self.database.reading() as db:
                actor, active_chat_id = await authenticate(db, handshake.token)
                # Nothing is awaited from here to the next one that is added: two at once count each other.
                self.limits.check_connections(
                    session=len(self.connections.of_session(actor.session_id)),
                    user=len(self.connections.of_user(actor.id)),
                )
                chose_chat = "active_chat_id" in handshake.model_fields_set
                connection = Connection(socket, actor, self.connections, self._end, chose_chat=chose_chat)
                # Known from here on, so that nothing that happens while it reads is missed.
                self.connections.add(connection)
                await _open_active(db, connection, handshake.active_chat_id if chose_chat else active_chat_id)
                connection.waiting.insert(0, encode(await _ready(db, connection)))
        except BaseException:
            self.lose(socket.sid, "refused")
            raise

    def start(self, connection: Connection) -> None:
        """The client knows that its login succeeded."""
        connection.start()
        self.presence.joined(connection.actor.id)
        logs.log_info("connected", connections=len(self.connections), **connection.log_values)

    def lose(self, connection_id: str, reason: str) -> None:
        """Forget a connection that ended. An unknown one is ignored."""
        connection = self.connections.remove(connection_id)
        # Before the start of the connection its user was not announced as online.
        if connection is not None and connection.is_started:
            self.presence.left(connection.actor.id)
            logs.log_info("disconnected", reason=reason, connections=len(self.connections), **connection.log_values)

    def _end(self, connection: Connection) -> None:
        """Send `session_revoked` to a connection, and close it for good."""
        self.lose(connection.id, "session revoked")
        connection.send(encode(SessionEnded(code="session_revoked")))
        self._background.spawn(connection.socket.end())

    def dispatch(
        self, connection: Connection, event: Any, respond: Callable[[bytes], None]
    ) -> Coroutine[Any, Any, None] | None:
        """Run a command, and respond with an ack in every case. A returned coroutine has to be awaited."""
        call = Call(connection, event, respond)
        if call.name is None or not COMMANDS[call.name].is_draft:
            return self._run(call, event)
        try:
            draft: Draft = COMMANDS[call.name].handler(connection, self._argument(call, event))
            call.log_values["chat"] = draft.chat_id
        except Exception as error:
            call.fail(error)
        else:
            self.outbox.put(draft, call.send, call.id, call.span)
        return None

    def _argument(self, call: Call, event: Any) -> Any:
        """The argument of the command. Raises UnknownCommand, RateLimited, InvalidInput."""
        if not isinstance(event, list):
            raise InvalidInput.at("", "not_a_list", "An event is a list of a name and one object, as JSON.")
        if call.name is None:
            raise UnknownCommand
        self.limits.check(call.name, user=call.connection.actor.id)
        if len(event) > 2:
            raise InvalidInput.at("", "too_many_arguments", "A command takes one object.")
        return _valid(COMMANDS[call.name].input.validator.validate_python, event[1] if len(event) == 2 else {})

    async def _run(self, call: Call, event: Any) -> None:
        logs.bind_request(**call.log_values)
        with tracing.within(call.span):
            try:
                call.succeed(*await self._execute(call, event))
            except Exception as error:
                call.fail(error)

    async def _execute(self, call: Call, event: Any) -> tuple[int, Any]:
        data, connection = self._argument(call, event), call.connection
        command = COMMANDS[call.name or ""]
        call.log_values.update({"chat": connection.active_chat_id} | logs.ids_in(vars(data)))
        logs.bind(**call.log_values)
        opened: Any = self.database.reading() if command.reads else self.database.transaction()
        with connection.choosing():
            async with opened as db:
                result = await command.handler(db, connection, data)
                call.log_values.update(logs.context())
        return status_and_data(result)

    async def end_sessions(self) -> None:
        """Close what no event closed: sessions that expired, were ended elsewhere, or are of deactivated users."""
        session_ids = {connection.actor.session_id for connection in self.connections}
        async with self.database.reading() as db:
            ended = await sessions.list_ended(db, session_ids)
        for connection in self.connections:
            if connection.actor.session_id in ended:
                connection.end()


def _valid(validate: Callable[[Any], Any], data: Any) -> Any:
    try:
        return validate(data)
    except ValidationError as error:
        raise InvalidInput.found(error.errors(include_input=False)) from error


async def _open_active(db: Db, connection: Connection, chat_id: UUID | None) -> None:
    """Open this chat; one that is not one's own is none."""
    if chat_id is None:
        return
    # Subscribed before it reads. Until the version is known, any removal closes the chat.
    connection.open_chat(chat_id, 0)
    try:
        version = (await access.view_chat(db, connection.actor, chat_id)).version
    except ChatNotFound:
        connection.lose_chat(chat_id, 1)
        return
    if connection.active == Opened(chat_id, 0):
        connection.open_chat(chat_id, version)


async def _ready(db: Db, connection: Connection) -> Ready:
    user_id, session_id = connection.actor
    sync, unread = await read_sync(db, user_id)
    return Ready(
        user_id=user_id,
        session_id=session_id,
        active_chat_id=connection.active_chat_id,
        sync=sync,
        unread=unread,
        limits=LIMITS,
        server_time=datetime.now(UTC),
        online=[peer for peer in await list_peers(db, user_id, connection.active_chat_id) if is_online(db, peer)],
    )
