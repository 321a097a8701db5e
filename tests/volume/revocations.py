"""Races of the end of a session against what is asked for with it, on other nodes.

A request that begins after the ack gets 401, and the connections of the session are closed within 5 s (P19).
"""

import asyncio
from dataclasses import dataclass, field
from random import Random
from uuid import uuid4

import orjson

from chat_app.background import end_tasks
from tests.chaos.nodes import Node
from tests.chaos.wire import ConnectionEnded, Http, Refusal
from tests.operations import Json
from tests.volume.device import Device, Watcher
from tests.volume.servers import Login, Servers
from tests.volume.sharing import UNAVAILABLE, check_available, share, surely

USERS = 12
CLOSE_SECONDS = 5.0
REQUESTS_AFTER = 2


@dataclass
class Figures:
    requests: int = 0
    in_flight: int = 0
    after: int = 0
    connections: int = 0
    slowest: float = 0.0
    slowest_answer: float = 0.0
    unavailable: int = 0


@dataclass
class User:
    """Somebody with a session that stays, and one more for each race; `closing`: connections, with times of acks."""

    servers: Servers
    random: Random
    figures: Figures
    lasting: Device
    chat_id: str = ""
    closing: list[tuple[Watcher, float]] = field(default_factory=list)

    async def prepare(self) -> None:
        args = {"user_id": await self.servers.make_user()}
        _, chat = await self.lasting.call(self.servers.nodes[0], "open_private_chat", args, by_socket=False)
        self.chat_id = chat["id"]

    async def race(self) -> None:
        device = Device(self.servers, await self.servers.log_in(self.lasting.user_id))
        nodes, acked = self.random.sample(self.servers.nodes, len(self.servers.nodes)), asyncio.Event()
        await device.connect(*nodes[: self.random.randint(1, 2)])
        reading = self.random.choice(("get_me", "list_chats", "list_messages", "list_sessions"))
        asking = [
            asyncio.create_task(self._ask(device, acked, "send_message", nodes[-1])),
            asyncio.create_task(self._ask(device, acked, reading, self.random.choice(nodes))),
            asyncio.create_task(self._ask_by_socket(device, acked, nodes[0])),
        ]
        try:
            await asyncio.sleep(self.random.uniform(0, 0.02))
            await self._revoke(device)
            acked.set()
            now = asyncio.get_running_loop().time()
            self.closing += [(socket, now) for socket in device.sockets.values()]
            await asyncio.gather(self._refresh(device.login), self._connect(device.login), *asking)
        finally:
            await end_tasks(asking)
            device.close_http()

    async def _revoke(self, device: Device) -> None:
        node = self.random.choice(self.servers.nodes)
        if self.random.random() < 0.5:
            await surely(lambda: device.call(node, "logout", {}, by_socket=False), ends=True)
        else:
            args = {"session_id": device.login.session_id}
            await surely(lambda: self.lasting.call(node, "revoke_session", args, by_socket=False), ends=True)

    async def _ask(self, device: Device, acked: asyncio.Event, name: str, node: Node) -> None:
        """One request after the other, until some that were begun after the ack are answered."""
        after = 0
        while after < REQUESTS_AFTER:
            is_after, began = acked.is_set(), asyncio.get_running_loop().time()
            status, _ = await device.call(node, name, self._arguments(name), by_socket=False)
            self.figures.slowest_answer = max(self.figures.slowest_answer, asyncio.get_running_loop().time() - began)
            self._count(status)
            self.figures.after += is_after
            self.figures.in_flight += acked.is_set() and not is_after
            after += is_after
            if is_after and status not in (401, UNAVAILABLE):
                self.servers.violations.append(f"P19 {name} on {node.name}, begun after the ack, got {status}")
            elif status not in (200, 201, 401, UNAVAILABLE):
                self.servers.violations.append(f"{name} on {node.name} got {status}")

    async def _ask_by_socket(self, device: Device, acked: asyncio.Event, node: Node) -> None:
        """Until the ack: after it the connection has some seconds to end, and `check_closed` waits for that."""
        while not acked.is_set():
            try:
                status, _ = await device.call(node, "send_message", self._arguments("send_message"), by_socket=True)
            except ConnectionEnded:
                return
            self._count(status)
            if status not in (201, 401, UNAVAILABLE):
                self.servers.violations.append(f"send_message over the socket on {node.name} got {status}")

    def _count(self, status: int) -> None:
        self.figures.requests += 1
        self.figures.unavailable += status == UNAVAILABLE

    def _arguments(self, name: str) -> Json:
        if name == "send_message":
            return {"chat_id": self.chat_id, "type": "text", "text": "hello", "client_id": str(uuid4())}
        return {"chat_id": self.chat_id} if name == "list_messages" else {}

    async def _refresh(self, login: Login) -> None:
        """With the refresh token, after the ack."""
        http = Http(self.random.choice(self.servers.nodes).port)
        body = orjson.dumps({"refresh_token": login.tokens.refresh_token})
        status, _ = await http.request("POST", "/api/v1/auth/refresh", body)
        http.close()
        self._count(status)
        if status not in (401, UNAVAILABLE):
            self.servers.violations.append(f"P19 a refresh begun after the ack got {status}")

    async def _connect(self, login: Login) -> None:
        """A new connection, after the ack."""
        socket = Watcher(self.servers.violations)
        try:
            await socket.connect(self.random.choice(self.servers.nodes).port, {"token": login.token})
        except (ConnectionEnded, Refusal):
            return
        finally:
            socket.close()
        self.servers.violations.append("P19 a connect begun after the ack was accepted")

    async def check_closed(self) -> None:
        """Wait for the connections of the sessions that have ended so far."""
        loop = asyncio.get_running_loop()
        # A machine that is busy with other things is slow for everything.
        seconds = CLOSE_SECONDS + self.figures.slowest_answer
        for socket, acked_at in self.closing:
            while socket.ended_at is None and loop.time() < acked_at + seconds:  # noqa: ASYNC110  # a deadline for each
                await asyncio.sleep(0.05)
            took = (socket.ended_at or loop.time()) - acked_at
            self.figures.connections += 1
            self.figures.slowest = max(self.figures.slowest, took)
            if socket.ended_at is None or took > seconds:
                self.servers.violations.append(f"P19 a connection was open {took:.1f} s after the ack")
                socket.close()
        self.closing = []


async def run(servers: Servers, count: int, random: Random) -> str:
    """Half of the races with a bus, half without. Returns the figures."""
    figures = Figures()
    users = []
    for _ in range(min(USERS, count)):
        lasting = Device(servers, await servers.log_in())
        users.append(User(servers, Random(random.getrandbits(32)), figures, lasting))
    await asyncio.gather(*(user.prepare() for user in users))
    for is_up, races in ((True, (count + 1) // 2), (False, count // 2)):
        await servers.set_bus(is_up=is_up)
        await share(servers, races, users)
        await asyncio.gather(*(user.check_closed() for user in users))
    check_available(servers, figures.unavailable, figures.requests)
    for user in users:
        user.lasting.close()
    return (
        f"{figures.requests} requests, {figures.in_flight} in flight at the ack, {figures.after} begun after it, "
        f"{figures.connections} connections closed within {figures.slowest:.2f} s, {figures.unavailable} answers of 503"
    )
