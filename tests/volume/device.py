"""A session of a person as the parts use it: a connection to each node, and requests beside it."""

import asyncio
from typing import Any

import orjson

from tests.chaos.nodes import Node
from tests.chaos.wire import Http, Socket
from tests.operations import ROUTES
from tests.volume.servers import Login, Servers


class Watcher(Socket):
    """A connection that reports a text that must not come, and knows when it ended."""

    def __init__(self, violations: list[str]) -> None:
        super().__init__(lambda name, data: None, self._note_end)
        self.violations = violations
        self.forbidden: bytes | None = None
        self.ended_at: float | None = None

    def _note_end(self, why: str) -> None:
        self.ended_at = asyncio.get_running_loop().time()

    def _packet(self, packet: bytes) -> None:
        if self.forbidden and self.forbidden in packet:
            self.violations.append(f"P16 a removed member received {packet[:300].decode(errors='replace')}")
        super()._packet(packet)


class Device:
    """Calls any operation over either transport, on any node. Raises what `Http` and `Socket` raise."""

    def __init__(self, servers: Servers, login: Login) -> None:
        self.servers, self.login = servers, login
        self.user_id = login.user_id
        self.sockets: dict[str, Watcher] = {}
        # Those that wait for nothing: what is asked at once goes over connections of its own.
        self._free: dict[str, list[Http]] = {node.name: [] for node in servers.nodes}

    async def connect(self, *nodes: Node) -> None:
        for node in nodes:
            socket = self.sockets[node.name] = Watcher(self.servers.violations)
            await socket.connect(node.port, {"token": self.login.token})

    def forbid(self, text: str) -> None:
        """From here on this must not come."""
        for socket in self.sockets.values():
            socket.forbidden = text.encode()

    async def call(self, node: Node, name: str, args: dict[str, Any], *, by_socket: bool) -> tuple[int, Any]:
        """Status, and the data of a success or the problem."""
        if by_socket:
            ack = await self.sockets[node.name].call(name, args)
            return (ack["status"], ack["data"]) if ack["ok"] else (ack["error"]["status"], ack["error"])
        route = ROUTES[name]
        body = orjson.dumps(route.body(args)) if route.content_type else b""
        status, content = await self.request(node, route.method, route.url(args), body)
        return status, orjson.loads(content) if content else None

    async def request(
        self, node: Node, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> tuple[int, bytes]:
        """Any request; status and body."""
        free = self._free[node.name]
        http = free.pop() if free else Http(node.port)
        answer = await http.request(method, path, body, kind, self.login.token)
        free.append(http)
        return answer

    def close(self) -> None:
        for socket in self.sockets.values():
            socket.close()
        self.close_http()

    def close_http(self) -> None:
        for free in self._free.values():
            while free:
                free.pop().close()
