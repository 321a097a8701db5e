"""Beneath the public interface of python-socketio; with `engine`, `lean` and `websocket`, the only place that is.

Why: its way out is a task and an encoding for each recipient, its way in lets a client's packet call the handlers of
`connect` and `disconnect`, and nothing runs between the acceptance of a connection and its first event.
"""

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson
import socketio
from engineio.async_drivers.asgi import WebSocket
from engineio.exceptions import SocketIsClosedError
from engineio.packet import MESSAGE
from engineio.packet import Packet as EnginePacket
from socketio.packet import BINARY_EVENT
from socketio.packet import Packet as SocketPacket

from chat_app import metrics
from chat_app.errors import TooManyConnections
from chat_app.limits import MOST_TRANSPORTS, Limits, network_of
from chat_app.live import lean
from chat_app.live.connections import Connection, Connections, Packet
from chat_app.live.engine import MALFORMED, Engine, Socket
from chat_app.live.frames import MOST_PACKET_BYTES
from chat_app.live.transports import Transports
from chat_app.logs import log, log_crash

Dispatch = Callable[[Connection, Any], Awaitable[bytes]]
DispatchNow = Callable[[Connection, Any, Callable[[bytes], None]], bool]

# To one that polls, and so not at once.
MOST_QUEUED_PACKETS = 1000
# A transport that does not log in for so long is given up.
LOGIN_SECONDS = 10
# For each packet of an upgrade from polling: the WebSocket is not counted as a transport, and not swept.
UPGRADE_SECONDS, UPGRADE_PACKETS = 10, 2
# At the end of the process commands that have begun get so long for their answers.
DRAIN_SECONDS = 4
SWEEP_PARTS = 8
# Of one connection.
MALFORMED_LINES_A_MINUTE = 5
# A message that is an event: without a namespace, with or without a number to answer to.
EVENT = re.compile(rb"42([0-9]{0,15})(?=\[)")

# The types of Engine.IO packets that a client may send.
ENGINE_TYPES = frozenset("0123456")


class _Transport(WebSocket):  # type: ignore[misc]  # the library is not typed
    """A WebSocket that goes the short way if there is one; else one that ends with the first frame that is no packet:
    the library would forget to close it.
    """

    def __init__(self, handler: Any, engine: Any) -> None:
        super().__init__(self._serve, engine)
        self._long_way = handler
        self._chat_server = engine.chat_server
        self._upgrade_packets = UPGRADE_PACKETS if handler.__self__.connected else 0

    async def _serve(self, websocket: Any) -> None:
        engine_socket = self._long_way.__self__
        environ = self._chat_server.environ[engine_socket.sid]
        if not await lean.serve(self._chat_server, engine_socket, websocket, environ):
            await self._long_way(websocket)

    async def wait(self) -> str | bytes:
        async with asyncio.timeout(UPGRADE_SECONDS if self._upgrade_packets else None):
            frame: str | bytes = await super().wait()
        self._upgrade_packets = max(0, self._upgrade_packets - 1)
        if isinstance(frame, str) and frame[:1] not in ENGINE_TYPES:
            raise OSError
        return frame


class _Packet(SocketPacket):  # type: ignore[misc]  # as above
    """A packet that is answered, if it says to which number, also when its content can't be read."""

    def decode(self, encoded_packet: Any) -> int | None:
        try:
            attachment_count: int | None = super().decode(encoded_packet)
        except (ValueError, RecursionError):
            if self.id is None:
                raise
            attachment_count = self.data = None
        return attachment_count


def address_of(environ: dict[str, Any]) -> str | None:
    """The address that a client counts by; behind a trusted proxy its own, over a Unix socket none."""
    address = (environ["asgi.scope"].get("client") or [None])[0]
    return network_of(address)


class ChatServer(socketio.AsyncServer):  # type: ignore[misc]  # the library is not typed
    """Hands commands to `dispatch` one after another for each connection, and answers every one."""

    def __init__(self, connections: Connections, limits: Limits, **options: Any) -> None:
        super().__init__(
            # Else the libraries write to stderr, beside the log.
            logger=logging.getLogger("socketio"),
            engineio_logger=logging.getLogger("engineio"),
            async_mode="asgi",
            async_handlers=False,
            namespaces=["/"],
            serializer=_Packet,
            monitor_clients=False,
            max_http_buffer_size=MOST_PACKET_BYTES,
            **options,
        )
        self.eio._async = self.eio._async | {"websocket": _Transport}
        self.eio.chat_server = self
        self.connections = connections
        self.limits = limits
        self.transports = Transports()
        self.dispatch: Dispatch
        self.dispatch_now: DispatchNow
        self._unflushed: list[lean.Line] = []
        self._ending: list[lean.Line] = []
        self._shutdown: asyncio.Task[None] | None = None
        # Since when transports are without a connection: not logged in yet, refused, or logged out.
        self._unauthenticated: dict[str, float] = {}
        self._unswept: list[str] = []
        self._part = 0
        self.connected: Callable[[Connection], None]
        self.lost: Callable[[str, str], None]
        self._malformed: Counter[str] = Counter()
        self._malformed_minute = 0

    def _engineio_server_class(self) -> type[Engine]:
        return Engine

    def send(self, connection: Connection, packet: Packet) -> None:
        """Put an encoded Socket.IO packet on a connection; one that is gone is nothing."""
        engine_socket = self.eio.sockets.get(connection.id)
        if engine_socket is None or engine_socket.closed:
            return
        queue = engine_socket.queue
        if isinstance(queue, lean.Line):
            connection.send = queue.send
            queue.send(packet)
        elif queue.qsize() < MOST_QUEUED_PACKETS:
            queue.put_nowait(EnginePacket(MESSAGE, packet.body.decode()))
        # Else it does not poll, and the sweep ends it.

    def is_logged_in(self, eio_sid: str) -> bool:
        return self.connections.get(eio_sid) is not None

    def will_flush(self, line: lean.Line) -> None:
        if not self._unflushed:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unflushed.append(line)

    def _flush(self) -> None:
        lines, self._unflushed = self._unflushed, []
        for line in lines:
            line.flush()

    def will_shut_down(self, line: lean.Line) -> None:
        self._ending.append(line)
        if self._shutdown is None:
            self._shutdown = asyncio.create_task(self._shut_down())

    async def _shut_down(self) -> None:
        """Close the connections together: the commit of one of them makes events for others."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                for line in self._ending:
                    assert line.ended
                    await line.ended.wait()
        self._flush()
        for line in self._ending:
            if not line.is_closed:
                line.protocol.shutdown()

    def take(self, line: lean.Line, packet: bytes) -> bool:
        """An event on the short way, if that is open to it."""
        connection = self.connections.get(line.socket.sid)
        event = EVENT.match(packet)
        if connection is None or event is None:
            return False
        try:
            data = orjson.loads(packet[event.end() :])
        except orjson.JSONDecodeError:
            return False
        number = event[1]

        def answer(said: bytes) -> None:
            line.answer(b"43%b[%b]" % (number, said) if number else None)

        return self.dispatch_now(connection, data, answer)

    async def sweep(self) -> None:
        """To be called some times a second: ask whether clients are there, and end what is left of others.

        A part of them each time, so that thousands make no pause in which nobody is served.
        """
        if not self._unswept:
            lost = [known.id for known in self.connections if known.id not in self.eio.sockets]
            self._unswept = [*self.eio.sockets, *lost]
            self.transports.keep(self.eio.sockets)
            self._unauthenticated = {
                sid: since for sid, since in self._unauthenticated.items() if sid in self.eio.sockets
            }
            self._part = max(100, len(self._unswept) // SWEEP_PARTS)
        part, self._unswept = self._unswept[: self._part], self._unswept[self._part :]
        now = time.monotonic()
        for sid in part:
            engine_socket = self.eio.sockets.get(sid)
            connection = self.connections.get(sid)
            # One that is still logging in is given up when its login is over.
            if connection is not None and connection.is_started and not self.is_open(sid):
                await self._give_up(sid)
            if engine_socket is None:
                continue
            if connection is not None:
                self._unauthenticated.pop(sid, None)
            elif now - self._unauthenticated.setdefault(sid, now) >= LOGIN_SECONDS:
                log.info("stranger cut", connection=sid)
                metrics.cut.labels("silent").inc()
                await self.eio.disconnect(sid)
                continue
            await self._check(sid, engine_socket, now)

    async def _check(self, sid: str, engine_socket: Any, now: float) -> None:
        if isinstance(engine_socket.queue, lean.Line):
            engine_socket.queue.check(now, self.eio.ping_interval, self.eio.ping_timeout)
        elif engine_socket.closed or engine_socket.queue.qsize() >= MOST_QUEUED_PACKETS:
            await engine_socket.close(wait=False, abort=True, reason=self.reason.PING_TIMEOUT)
            self.eio.sockets.pop(sid, None)
        elif not engine_socket.closing:
            await engine_socket.check_ping_timeout()

    def is_open(self, eio_sid: str) -> bool:
        """Whether the transport is there and not about to end."""
        engine_socket = self.eio.sockets.get(eio_sid)
        return engine_socket is not None and not engine_socket.closing and not engine_socket.closed

    async def _give_up(self, eio_sid: str) -> None:
        """Forget a connection whose transport is gone."""
        sid = self.manager.sid_from_eio_sid(eio_sid, "/")
        if sid is not None:
            await self.manager.disconnect(sid, "/", ignore_queue=True)
        self.lost(eio_sid, self.reason.TRANSPORT_CLOSE)

    def log_malformed(self, eio_sid: str, error: Exception) -> None:
        """Log that a packet can't be read: one line, without its content, and not for each of thousands."""
        minute = int(time.monotonic() // 60)
        if minute != self._malformed_minute:
            self._malformed_minute, self._malformed = minute, Counter()
        self._malformed[eio_sid] += 1
        if self._malformed[eio_sid] <= MALFORMED_LINES_A_MINUTE:
            log.warning("malformed packet", connection=eio_sid, error=type(error).__qualname__)

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> Any:
        address = address_of(environ)
        if self.limits.enabled and self.transports.count(address) >= MOST_TRANSPORTS:
            return TooManyConnections()
        engine_socket = self.eio.sockets[eio_sid]
        # The library has no setting for this class.
        engine_socket.__class__ = Socket
        if lean.fits(environ):
            # Without this a task would wait to send the first ping.
            engine_socket.last_ping = None
        self.transports.add(eio_sid, address)
        return await super()._handle_eio_connect(eio_sid, environ)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        self.transports.remove(eio_sid)
        await super()._handle_eio_disconnect(eio_sid, reason)

    def engine_id(self, sid: str) -> str:
        """The id of the transport below a Socket.IO connection, by which connections are known here."""
        engine_id: str = self.manager.eio_sid_from_sid(sid, "/")
        return engine_id

    async def end(self, connection_id: str) -> None:
        """Disconnect for good: the client does not come back by itself."""
        sid = self.manager.sid_from_eio_sid(connection_id, "/")
        if sid is not None:
            await self.disconnect(sid)
        await self.eio.disconnect(connection_id)

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        if self.manager.sid_from_eio_sid(eio_sid, "/") is not None or not self.is_open(eio_sid):
            return  # connecting twice over one transport, or after its end
        try:
            with suppress(SocketIsClosedError):
                await super()._handle_connect(eio_sid, namespace, data)
        finally:
            # An end during the login came before there was a connection that could be forgotten.
            if not self.is_open(eio_sid):
                await self._give_up(eio_sid)
        connection = self.connections.get(eio_sid)
        if connection is not None:
            queue = self.eio.sockets[eio_sid].queue
            if isinstance(queue, lean.Line):
                queue.protocol.budget.is_full = True
            self.connected(connection)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        if isinstance(data, bytes):
            return
        try:
            # Engine.IO parses what is JSON by itself, and no packet of Socket.IO is.
            if not isinstance(data, str):
                raise TypeError
            await super()._handle_eio_message(eio_sid, data)
        except MALFORMED as error:
            self.log_malformed(eio_sid, error)
        except Exception as error:
            log_crash(error)
        # No command takes binary data, so what is announced is not waited for: there could be no end to it.
        announced = self._binary_packet.pop(eio_sid, None)
        if announced is not None and announced.packet_type == BINARY_EVENT:
            await self._handle_event(eio_sid, announced.namespace, announced.id, announced.data)

    async def _handle_ack(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        """Nothing: no event asks for an ack."""

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        connection = self.connections.get(eio_sid)
        if connection is None or namespace not in (None, "/"):
            return
        answer = await self.dispatch(connection, data)
        if id is not None:
            self.send(connection, Packet(b"3%d[%b]" % (id, answer)))
