"""The Engine.IO server beneath python-socketio, and its sockets: how a transport ends, and how one is refused."""

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

import engineio
import orjson
from engineio.async_drivers.asgi import WebSocket
from engineio.async_socket import AsyncSocket
from engineio.exceptions import EngineIOError
from engineio.packet import CLOSE, MESSAGE, NOOP
from engineio.packet import Packet as EnginePacket
from engineio.payload import Payload
from socketio.packet import DISCONNECT

from chat_app import metrics
from chat_app.errors import ChatError, WebsocketOnly
from chat_app.limits import address_of
from chat_app.live.engine.fast_socket import FastSocket
from chat_app.live.engine.frames import PACKET_TYPES, Packet
from chat_app.live.engine.frames import frame as frame_of
from chat_app.live.engine.protocol import FastProtocol
from chat_app.logs import log
from chat_app.media.links import host_of

if TYPE_CHECKING:  # it makes these
    from chat_app.live.engine.server import ChatServer

# Of a client that polls.
MOST_QUEUED_PACKETS = 1000
# A transport that does not log in for so long is closed.
LOGIN_SECONDS = 10
# For each packet of an upgrade from polling: the WebSocket is not counted as a transport, and not checked.
UPGRADE_SECONDS = 10

MISPLACED = "A token in the URL or in a header is not read: send it as `auth: { token }`."
# Of one transport.
MALFORMED_LINES = 5
# The errors that the libraries raise for a packet that can't be read.
MALFORMED = (ValueError, LookupError, TypeError, RecursionError)

# Of one request of a client that polls: it sends all packets that it queued while it was offline.
Payload.max_decode_packets = 256


def protocol_of(asgi_send: Any) -> FastProtocol | None:
    """The protocol of a WebSocket that can be on the fast path."""
    protocol = getattr(asgi_send, "__self__", None)
    return protocol if isinstance(protocol, FastProtocol) else None


class Socket(AsyncSocket):  # type: ignore[misc]  # the library is not typed
    """One transport of a client: on the fast path if `fast` is set, else polling or a WebSocket of the libraries."""

    fast: FastSocket | None = None
    # Since when there is no connection over it: not logged in yet, refused, or logged out.
    _unauthenticated_at: float | None = None
    _malformed = 0

    def open(self, environ: dict[str, Any], count: int) -> None:
        """`count`: how many transports its address has already."""
        scope = environ["asgi.scope"]
        self.address, self.host, self.count = address_of(scope), host_of(scope), count
        self.traceparent: str | None = environ.get("HTTP_TRACEPARENT")
        is_misplaced = b"token" in scope["query_string"] or b"authorization" in dict(scope["headers"])
        # What to answer to a connect without a token.
        self.misplaced = MISPLACED if is_misplaced else None
        if protocol_of(environ["asgi.send"]):
            # Without this a task would wait to send the first ping.
            self.last_ping = None

    @property
    def is_open(self) -> bool:
        """Whether the transport is there and not about to end."""
        return not self.closing and not self.closed

    def deliver(self, packet: Packet) -> None:
        """Send an encoded Socket.IO packet."""
        if self.fast is not None:
            self.fast.send(packet)
        elif not self.closed and self.queue.qsize() < MOST_QUEUED_PACKETS:
            self.queue.put_nowait(EnginePacket(MESSAGE, packet.body.decode()))
        # Else it does not poll, and `check` ends it.

    async def send(self, packet: EnginePacket) -> None:
        """Send a packet of the libraries."""
        if self.fast is None:
            await super().send(packet)
            return
        self.fast.write(frame_of(packet.encode().encode()))
        if packet.packet_type == CLOSE:
            self.fast.close()

    def log_malformed(self, error: Exception) -> None:
        """Log that a packet can't be read: one line, without its content, and not for each of thousands."""
        self._malformed += 1
        if self._malformed <= MALFORMED_LINES:
            log.warning("malformed packet", connection=self.sid, error=type(error).__qualname__)

    async def end(self) -> None:
        """Disconnect for good, after all queued packets: the client does not reconnect by itself."""
        await self.server.send_packet(self.sid, EnginePacket(MESSAGE, str(DISCONNECT)))
        await self.server.disconnect(self.sid)

    async def check(self) -> None:
        """End the transport of a client that does not log in, does not answer or does not read."""
        now = time.monotonic()
        connection = self.server.chat_server.connections.get(self.sid)
        self._unauthenticated_at = None if connection else self._unauthenticated_at or now
        if self._unauthenticated_at and now - self._unauthenticated_at >= LOGIN_SECONDS:
            log.info("unauthenticated transport cut", connection=self.sid)
            metrics.cut.labels("silent").inc()
            await self.server.disconnect(self.sid)
        elif self.fast is not None:
            self.fast.check(now, self.server.ping_interval, self.server.ping_timeout)
        elif self.closed or self.queue.qsize() >= MOST_QUEUED_PACKETS:
            await self.close(wait=False, abort=True, reason=self.server.reason.PING_TIMEOUT)
            self.server.sockets.pop(self.sid, None)
        elif not self.closing:
            await self.check_ping_timeout()

    async def handle_post_request(self, environ: dict[str, Any]) -> None:
        """Refuse a request with malformed packets, which ends the transport. The library would continue."""
        try:
            await super().handle_post_request(environ)
        except EngineIOError:
            # The library has no answer for a socket that ended meanwhile.
            if self.sid in self.server.sockets:
                raise
        except MALFORMED as error:
            self.log_malformed(error)
            raise EngineIOError from error

    async def receive(self, packet: EnginePacket) -> None:
        if not self.upgraded:
            await asyncio.sleep(0)  # a request holds many packets, and other connections must not wait for all
        await super().receive(packet)

    async def _websocket_handler(self, websocket: Any) -> None:
        protocol = protocol_of(websocket.asgi_send)
        if protocol is None:
            await super()._websocket_handler(websocket)
        elif not self.connected or await self._upgrade(websocket):
            await self._serve(websocket, protocol)

    async def _upgrade(self, websocket: Any) -> bool:
        """Switch from polling. A client that does not keep to the sequence continues to poll."""
        self.upgrading = True  # what is sent waits
        try:
            if await websocket.wait() != "2probe":
                return False
            await websocket.send("3probe")
            await self.queue.put(EnginePacket(NOOP))  # ends the poll
            # Another WebSocket of the same transport may have been faster.
            return await websocket.wait() == "5" and not self.upgraded
        except OSError:
            return False
        finally:
            self.upgrading = False

    async def _serve(self, websocket: Any, protocol: FastProtocol) -> None:
        """Serve an accepted WebSocket on the fast path to its end."""
        self.connected = self.upgraded = True
        self.last_ping = None
        environ = self.server.chat_server.environ[self.sid]
        # A browser's headers are 4 KB for each connection, as long as it lives. The login takes what it logs.
        kept = ("HTTP_X_REQUEST_ID", "HTTP_USER_AGENT")
        for name in [name for name in environ if name.startswith("HTTP_") and name not in kept]:
            del environ[name]
        self.fast = FastSocket(self.server.chat_server, self, protocol)
        while not self.queue.empty():
            # None: it was disconnected meanwhile.
            if (waiting := self.queue.get_nowait()) is not None:
                await self.send(waiting)
        try:
            while not protocol.queue.empty():
                packet = await websocket.wait()
                if isinstance(packet, str):
                    self.fast.receive(packet.encode())
            protocol.attach(self.fast)
            await websocket.wait()
        except OSError:
            await websocket.close()
        await self.close(wait=False, abort=True, reason=self.server.reason.TRANSPORT_CLOSE)


class _WebSocket(WebSocket):  # type: ignore[misc]  # as above
    """Ends at the first frame that is no packet, and when an upgrade lasts too long."""

    async def wait(self) -> str | bytes:
        async with asyncio.timeout(UPGRADE_SECONDS if self.handler.__self__.upgrading else None):
            frame: str | bytes = await super().wait()
        if isinstance(frame, str) and not (frame and ord(frame[0]) in PACKET_TYPES):
            raise OSError
        return frame


class Engine(engineio.AsyncServer):  # type: ignore[misc]  # as above
    """Closes a transport without waiting: a client that does not poll would hold the request that closes it."""

    _async: dict[str, Any]

    def __init__(self, chat_server: "ChatServer", **options: Any) -> None:
        super().__init__(**options)
        self._async = self._async | {"websocket": _WebSocket}
        self.chat_server = chat_server

    async def disconnect(self, sid: str | None = None) -> None:
        socket = self.sockets.pop(sid, None)
        if socket is not None:
            await socket.close(wait=False, reason=self.reason.SERVER_DISCONNECT)
            # All queued packets are sent, then the transport is closed, whether or not the client closes it.
            await socket.queue.put(None)

    def _ok(self, packets: Any = None, headers: Any = None, jsonp_index: int | None = None) -> dict[str, Any]:
        """Never as a script: with JSONP a page of any origin could read the answer."""
        return cast(dict[str, Any], super()._ok(packets, headers))

    def _bad_request(self, message: str | None = None) -> dict[str, Any]:
        if message == "Invalid transport" and self.transports == ["websocket"]:
            return self._unauthorized(WebsocketOnly())
        return cast(dict[str, Any], super()._bad_request(message))

    def _unauthorized(self, message: ChatError) -> dict[str, Any]:
        """The response to a transport that was refused, with the reason that `ChatServer` gave."""
        problem, headers = message.problem(None), [("Content-Type", "application/problem+json")]
        if message.retry_after is not None:
            headers.append(("Retry-After", str(message.retry_after)))
        return {"status": f"{message.status} {problem['title']}", "headers": headers, "response": orjson.dumps(problem)}
