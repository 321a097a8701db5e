"""The Engine.IO server beneath python-socketio: how a transport ends, and how one is refused."""

import asyncio
from typing import Any

import engineio
import orjson
from engineio.async_socket import AsyncSocket
from engineio.exceptions import EngineIOError
from engineio.packet import Packet
from engineio.payload import Payload

from chat_app.errors import ChatError, WebsocketOnly

# What the libraries raise for a packet that can't be read.
MALFORMED = (ValueError, LookupError, TypeError, RecursionError)


# In one request of a client that polls: what it wrote while it was offline comes at once.
Payload.max_decode_packets = 256


class Socket(AsyncSocket):  # type: ignore[misc]  # the library is not typed
    """An Engine.IO socket that refuses a request with malformed packets, and so ends: the library would go on."""

    async def handle_post_request(self, environ: dict[str, Any]) -> None:
        try:
            await super().handle_post_request(environ)
        except EngineIOError:
            # The library has no answer for a socket that ended meanwhile.
            if self.sid in self.server.sockets:
                raise
        except MALFORMED as error:
            self.server.chat_server.log_malformed(self.sid, error)
            raise EngineIOError from error

    async def receive(self, packet: Packet) -> None:
        if not self.upgraded:
            await asyncio.sleep(0)  # a request holds many, and others have their turn
        await super().receive(packet)


class Engine(engineio.AsyncServer):  # type: ignore[misc]  # the library is not typed
    """The layer below, which closes without waiting: who does not poll would hold their own request for ever."""

    async def disconnect(self, sid: str | None = None) -> None:
        socket = self.sockets.pop(sid, None)
        if socket is not None:
            await socket.close(wait=False, reason=self.reason.SERVER_DISCONNECT)
            # What was said is sent, and then the transport is closed, whether or not the client does it.
            await socket.queue.put(None)

    def _bad_request(self, message: str | None = None) -> dict[str, Any]:
        if message == "Invalid transport" and self.transports == ["websocket"]:
            return _problem_answer(WebsocketOnly())
        answer: dict[str, Any] = super()._bad_request(message)
        return answer

    def _unauthorized(self, message: ChatError) -> dict[str, Any]:
        """The answer to a transport that `ChatServer` refused, with the reason that it gave."""
        return _problem_answer(message)


def _problem_answer(error: ChatError) -> dict[str, Any]:
    problem, headers = error.problem(None), [("Content-Type", "application/problem+json")]
    if error.retry_after is not None:
        headers.append(("Retry-After", str(error.retry_after)))
    return {"status": f"{error.status} {problem['title']}", "headers": headers, "response": orjson.dumps(problem)}
