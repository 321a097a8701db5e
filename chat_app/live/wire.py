"""The one place beneath the public interface of python-socketio and python-engineio.

Why: its way out is a task and an encoding for each recipient, its way in lets a client's packet call the handlers of
`connect` and `disconnect`, and nothing runs between the acceptance of a connection and its first event.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import engineio
import socketio
from engineio.async_drivers.asgi import WebSocket
from engineio.packet import MESSAGE
from engineio.packet import Packet as EnginePacket
from socketio.packet import BINARY_EVENT, Packet

from chat_app.live.connections import Connection, Connections

Dispatch = Callable[[Connection, Any], Awaitable[str]]


# The types of Engine.IO packets that a client may send.
ENGINE_TYPES = frozenset("0123456")


class _Transport(WebSocket):  # type: ignore[misc]  # the library is not typed
    """A WebSocket that ends with the first frame that is no packet; the library would forget to close it."""

    async def wait(self) -> str | bytes:
        frame: str | bytes = await super().wait()
        if isinstance(frame, str) and frame[:1] not in ENGINE_TYPES:
            raise OSError
        return frame


class _Engine(engineio.AsyncServer):  # type: ignore[misc]  # as above
    """The layer below, which closes without waiting: who does not poll would hold their own request for ever."""

    async def disconnect(self, sid: str | None = None) -> None:
        socket = self.sockets.pop(sid, None)
        if socket is not None:
            await socket.close(wait=False, reason=self.reason.SERVER_DISCONNECT)


class _Packet(Packet):  # type: ignore[misc]  # as above
    """A packet that is answered, if it says to which number, also when its content can't be read."""

    def decode(self, encoded_packet: Any) -> int | None:
        try:
            attachment_count: int | None = super().decode(encoded_packet)
        except (ValueError, RecursionError):
            if self.id is None:
                raise
            attachment_count = self.data = None
        return attachment_count


class ChatServer(socketio.AsyncServer):  # type: ignore[misc]  # the library is not typed
    """Hands commands to `dispatch` one after another for each connection, and answers every one."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(async_mode="asgi", async_handlers=False, namespaces=["/"], serializer=_Packet, **options)
        self.eio._async = self.eio._async | {"websocket": _Transport}
        self.connections = connections
        self.dispatch: Dispatch
        self.connected: Callable[[Connection], None]

    def _engineio_server_class(self) -> type[_Engine]:
        return _Engine

    def send(self, connection_id: str, packet: str) -> None:
        """Put an encoded Socket.IO packet on a connection; one that is gone is nothing."""
        engine_socket = self.eio.sockets.get(connection_id)
        if engine_socket is not None and not engine_socket.closed:
            engine_socket.queue.put_nowait(EnginePacket(MESSAGE, packet))

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
        if self.manager.sid_from_eio_sid(eio_sid, "/") is not None:
            return  # connecting twice over one transport
        await super()._handle_connect(eio_sid, namespace, data)
        connection = self.connections.get(eio_sid)
        if connection is not None:
            self.connected(connection)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        if isinstance(data, bytes):
            return
        await super()._handle_eio_message(eio_sid, data)
        # No command takes binary data, so what is announced is not waited for: there could be no end to it.
        announced = self._binary_packet.pop(eio_sid, None)
        if announced is not None and announced.packet_type == BINARY_EVENT:
            await self._handle_event(eio_sid, announced.namespace, announced.id, announced.data)

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: Any) -> None:
        connection = self.connections.get(eio_sid)
        if connection is None or namespace not in (None, "/"):
            return
        answer = await self.dispatch(connection, data)
        if id is not None:
            self.send(eio_sid, f"3{id}[{answer}]")
