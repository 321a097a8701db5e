"""The Socket.IO server: a subclass that overrides private methods of python-socketio.

The library makes a task and an encoding for each recipient of an event, lets a client's packet call the handlers of
`connect` and `disconnect`, and has no hook between the acceptance of a connection and its first event.
"""

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import orjson
import socketio
from engineio.exceptions import SocketIsClosedError
from socketio.packet import ACK, BINARY_ACK, BINARY_EVENT, CONNECT_ERROR, EVENT
from socketio.packet import Packet as SocketPacket

from chat_app import logs, metrics
from chat_app.background import Background
from chat_app.errors import NotFound, TooManyConnections
from chat_app.limits import MOST_TRANSPORTS, Limits, address_of
from chat_app.live.connections import Connection, Connections
from chat_app.live.engine.fast_socket import FastSocket
from chat_app.live.engine.frames import MOST_PACKET_BYTES, Packet
from chat_app.live.engine.sockets import MALFORMED, Engine, Socket
from chat_app.logs import log_crash

# At the end of the process commands that have begun get so long for their answers.
DRAIN_SECONDS = 4
CHECK_SECONDS, CHECK_PARTS = 0.25, 8
# A message that is an event: without a namespace, with or without the number of its ack.
PLAIN_TYPES = {BINARY_EVENT: EVENT, BINARY_ACK: ACK}
OTHER_NAMESPACE = NotFound("There is only the default namespace: connect without a path, as io('https://host').")
FAST_EVENT = re.compile(rb"42([0-9]{0,15})(?=\[)")


class Application(Protocol):
    """The application that the server serves."""

    async def log_in(self, socket: Socket, auth: Any) -> None:
        """Make a connection. Raises ChatError."""

    def start(self, connection: Connection) -> None:
        """The client knows that its login succeeded."""

    def lose(self, connection_id: str, reason: str) -> None:
        """Forget a connection that ended. An unknown one is ignored."""

    def dispatch(
        self, connection: Connection, event: Any, respond: Callable[[bytes], None]
    ) -> Coroutine[Any, Any, None] | None:
        """Run a command, and call `respond` with its ack. A returned coroutine has to be awaited."""


class _Packet(SocketPacket):  # type: ignore[misc]  # the library is not typed
    """A packet that is answered, if it has a number, also when its content can't be read.

    Its attachments are ignored, as no command takes binary data, and the last one may never arrive.
    """

    packet_type: int

    def decode(self, encoded_packet: Any) -> None:
        try:
            super().decode(encoded_packet)
        except (ValueError, RecursionError):
            if self.id is None:
                raise
            self.data = None
        self.packet_type = PLAIN_TYPES.get(self.packet_type, self.packet_type)


class ChatServer(socketio.AsyncServer):  # type: ignore[misc]  # as above
    """Passes commands to the application one after another for each connection, and answers every one."""

    def __init__(self, application: Application, connections: Connections, limits: Limits, **options: Any) -> None:
        super().__init__(
            # Else the libraries write to stderr, beside the log.
            logger=logging.getLogger("socketio"),
            engineio_logger=logging.getLogger("engineio"),
            async_mode="asgi",
            async_handlers=False,
            serializer=_Packet,
            monitor_clients=False,
            http_compression=False,
            max_http_buffer_size=MOST_PACKET_BYTES,
            **options,
        )
        self.application = application
        self.connections = connections
        self.limits = limits
        # The number of Engine.IO sockets of each address, with and without a login.
        self.transports: Counter[str | None] = Counter()
        self._background = Background()
        self._unflushed: list[FastSocket] = []
        self._draining: list[FastSocket] = []
        self.on("connect", self._log_in)
        self.on("disconnect", self._lose)

    def _engineio_server_class(self) -> Callable[..., Engine]:
        return partial(Engine, self)

    def begin(self, fast: FastSocket, packet: bytes) -> Coroutine[Any, Any, None] | None:
        """Begin with a packet, and call `fast.finish` at its end. A returned coroutine has to be awaited."""
        connection = self.connections.get(fast.socket.sid)
        event = FAST_EVENT.match(packet)
        if connection is None or event is None:
            return fast.receive_by_library(packet)
        try:
            data = orjson.loads(packet[event.end() :])
        except orjson.JSONDecodeError:
            return fast.receive_by_library(packet)
        number = event[1]

        def respond(ack: bytes) -> None:
            fast.finish(b"43%b[%b]" % (number, ack) if number else None)

        return self.application.dispatch(connection, data, respond)

    def will_flush(self, fast: FastSocket) -> None:
        """Flush it on the next iteration of the event loop."""
        if not self._unflushed:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unflushed.append(fast)

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for fast in unflushed:
            fast.flush()

    def will_shut_down(self, fast: FastSocket) -> None:
        """Shut down its protocol once all are drained: the commit of one of them makes events for others."""
        if not self._draining:
            self._background.spawn(self._shut_down())
        self._draining.append(fast)

    async def _shut_down(self) -> None:
        latest = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < latest and any(fast.is_busy for fast in self._draining):  # noqa: ASYNC110  # once
            await asyncio.sleep(0.01)
        self._flush()
        for fast in self._draining:
            if not fast.protocol.is_over:
                fast.protocol.shutdown()

    async def sweep(self) -> None:
        """Check each transport once, in parts, so that thousands make no pause; forget connections without one."""
        sockets = list(self.eio.sockets.values())
        size = max(100, len(sockets) // CHECK_PARTS)
        for number, socket in enumerate(sockets, 1):
            try:
                if socket.sid in self.eio.sockets:
                    await socket.check()
            except Exception as error:
                log_crash(error)
            if number % size == 0:
                await asyncio.sleep(CHECK_SECONDS)
        opened = {sid: socket.address for sid, socket in self.eio.sockets.items() if socket.is_open}
        self.transports = Counter(opened.values())
        for connection in self.connections:
            # One that is still logging in is forgotten when its login is over.
            if connection.is_started and connection.id not in opened:
                await self._forget(connection.id)

    async def _forget(self, eio_sid: str) -> None:
        """Forget a connection whose transport ended."""
        sid = self.manager.sid_from_eio_sid(eio_sid, "/")
        if sid is not None:
            await self.manager.disconnect(sid, "/", ignore_queue=True)
        self.application.lose(eio_sid, self.reason.TRANSPORT_CLOSE)

    async def _lose(self, sid: str, reason: str) -> None:
        # Connections are known by the id of the transport below them.
        self.application.lose(self.manager.eio_sid_from_sid(sid, "/"), reason)

    async def _log_in(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        socket = self.eio.sockets[self.manager.eio_sid_from_sid(sid, "/")]
        logs.bind_request(request_id=logs.new_request_id(environ.get("HTTP_X_REQUEST_ID")), command="connect")
        logs.bind(connection=socket.sid, **logs.client(socket.address, environ.pop("HTTP_USER_AGENT", None)))
        logs.log_info("received")
        try:
            async with metrics.count_login("connect"):
                await self.application.log_in(socket, auth)
        except Exception as error:
            problem = logs.as_chat_error(error)
            logs.log_info("refused", logs.AUDIT, **problem.reasons())
            content = problem.problem(logs.context().get("request_id"))
            raise socketio.exceptions.ConnectionRefusedError(problem.detail, content) from error

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> Any:
        address = address_of(environ["asgi.scope"])
        count = self.transports[address] if address is not None else 0
        if self.limits.enabled and count >= MOST_TRANSPORTS:
            return TooManyConnections()
        self.transports[address] += 1
        socket = self.eio.sockets[eio_sid]
        # The library has no setting for this class.
        socket.__class__ = Socket
        socket.open(environ, count)
        return await super()._handle_eio_connect(eio_sid, environ)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        self.transports[address_of(self.environ[eio_sid]["asgi.scope"])] -= 1
        await super()._handle_eio_disconnect(eio_sid, reason)

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        socket = self.eio.sockets.get(eio_sid)
        if namespace not in (None, "/"):
            content = {"message": OTHER_NAMESPACE.detail, "data": OTHER_NAMESPACE.problem(None)}
            await self._send_packet(eio_sid, self.packet_class(CONNECT_ERROR, data=content, namespace=namespace))
            return
        if socket is None or not socket.is_open or self.manager.sid_from_eio_sid(eio_sid, "/") is not None:
            return  # connecting twice over one transport, or after its end
        try:
            with suppress(SocketIsClosedError):
                await super()._handle_connect(eio_sid, namespace, data)
        finally:
            # If the transport ended during the login, there was no connection to forget yet.
            if not socket.is_open:
                await self._forget(eio_sid)
        connection = self.connections.get(eio_sid)
        if connection is not None:
            self.application.start(connection)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        socket = self.eio.sockets.get(eio_sid)
        if socket is None or isinstance(data, bytes):
            return
        try:
            await super()._handle_eio_message(eio_sid, data)
        except MALFORMED as error:
            socket.log_malformed(error)
        except Exception as error:
            log_crash(error)

    async def _handle_ack(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        """Nothing: no event asks for an ack."""

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        connection = self.connections.get(eio_sid)
        if connection is None or namespace not in (None, "/"):
            return
        response: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        work = self.application.dispatch(connection, data, response.set_result)
        if work is not None:
            await work
        ack = await response
        if id is not None:
            connection.send(Packet(b"3%d[%b]" % (id, ack)))
