"""Users of the service in tests, over real HTTP and real Socket.IO, with one interface for both transports."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import httpx
import socketio

# How long a test waits for an event. It is no promise, so it is long enough for a busy machine.
DEADLINE = 20.0

Event = tuple[str, dict[str, Any]]


async def until(condition: Callable[[], object], deadline: float = 2 * DEADLINE) -> None:
    """Wait for a condition without an event, such as an action of another process."""
    async with asyncio.timeout(deadline):
        while not condition():  # noqa: ASYNC110  # no event to wait for
            await asyncio.sleep(0.02)


# With several nodes an answer of one does not show what another has received. These wait until all have the same.
in_step: list[Callable[[], Awaitable[None]]] = []


class Answer(NamedTuple):
    """The answer of either transport: the HTTP status, the data of a success, the code of a failure."""

    status: int
    data: Any
    code: str | None

    @property
    def ok(self) -> bool:
        return self.code is None


class Socket:
    """One Socket.IO connection that keeps every event in the order of arrival."""

    def __init__(self) -> None:
        self.client = socketio.AsyncClient(reconnection=False)
        self.events: list[Event] = []
        self.arrived = asyncio.Event()
        self.client.on("*", self._remember)

    def _remember(self, name: str, *arguments: Any) -> None:
        self.events.append((name, arguments[0] if arguments else {}))
        self.arrived.set()

    async def connect(self, base: str, auth: Any, **options: Any) -> dict[str, Any]:
        """Connect, wait for `ready` and return it. Raises socketio's ConnectionError when refused."""
        await self.client.connect(base, auth=auth, transports=["websocket"], wait_timeout=DEADLINE, **options)
        return await self.wait_for("ready")

    async def call(self, command: str, argument: Any = None) -> Answer:
        """Send one command and return its ack."""
        ack = await self.client.call(command, {} if argument is None else argument, timeout=DEADLINE)
        return answer_of(ack)

    def named(self, name: str) -> list[dict[str, Any]]:
        """The payloads of the events of this name received so far."""
        return [payload for event, payload in self.events if event == name]

    async def wait_for(
        self, name: str, condition: Callable[[dict[str, Any]], bool] = lambda payload: True
    ) -> dict[str, Any]:
        """Return the first such event, which may have arrived before."""
        async with asyncio.timeout(DEADLINE):
            while True:
                for payload in self.named(name):
                    if condition(payload):
                        return payload
                self.arrived.clear()
                await self.arrived.wait()

    async def close(self) -> None:
        await self.client.disconnect()


def answer_of(ack: dict[str, Any]) -> Answer:
    """An ack as an Answer. Fails on anything but the two envelopes."""
    if ack["ok"]:
        assert set(ack) == {"ok", "status", "data", "request_id"}
        return Answer(ack["status"], ack["data"], None)
    assert set(ack) == {"ok", "error"}
    return Answer(ack["error"]["status"], None, ack["error"]["code"])


class Person:
    """A registered user with a token, an HTTP client and, once connected, a socket."""

    def __init__(self, base: str, user_id: UUID, session_id: UUID, token: str, name: str) -> None:
        self.base = base
        self.id = str(user_id)
        self.session_id = session_id
        self.token = token
        self.name = name
        # Plain HTTP: loading certificates would take longer than most tests.
        self.http = httpx.AsyncClient(
            base_url=base, headers={"Authorization": f"Bearer {token}"}, timeout=30, verify=False
        )
        self.sockets: list[Socket] = []

    @property
    def socket(self) -> Socket:
        """The first connection."""
        return self.sockets[0]

    async def connect(self, **auth: Any) -> Socket:
        """Open one more connection."""
        socket = Socket()
        self.sockets.append(socket)
        await socket.connect(self.base, {"token": self.token, **auth})
        return socket

    async def open(self, chat_id: str) -> None:
        """Make a chat active on the first connection."""
        if not self.sockets:
            await self.connect()
        assert (await self.socket.call("activate_chat", {"chat_id": chat_id})).ok

    async def settle(self) -> None:
        """Wait until everything that was committed before has arrived on every connection."""
        for wait in in_step:
            await wait()
        for socket in self.sockets:
            assert (await socket.call("list_chats", {"limit": 1})).ok

    async def forget(self) -> None:
        """Start listening here: connect, settle and forget every event so far."""
        if not self.sockets:
            await self.connect()
        await self.settle()
        for socket in self.sockets:
            socket.events.clear()

    async def received(self, name: str) -> list[dict[str, Any]]:
        """The payloads of all such events on the first connection, after settling."""
        await self.settle()
        return self.socket.named(name)

    async def received_all(self) -> list[Event]:
        """All events but `presence_changed` on the first connection, after settling."""
        await self.settle()
        return [event for event in self.socket.events if event[0] != "presence_changed"]

    async def close(self) -> None:
        for socket in self.sockets:
            await socket.close()
        await self.http.aclose()


class Transport:
    """One transport: the same operation names and arguments for HTTP and Socket.IO."""

    name: str

    async def call(self, person: Person, operation: str, **arguments: Any) -> Answer:
        raise NotImplementedError

    async def do(self, person: Person, operation: str, **arguments: Any) -> Any:
        """Return the data of a success. A failure fails the test."""
        answer = await self.call(person, operation, **arguments)
        assert answer.ok, f"{operation} by {person.name}: {answer}"
        return answer.data

    async def call_at_once(self, person: Person, times: int, operation: str, **arguments: Any) -> list[Answer]:
        """The same call several times in parallel, as from several devices."""
        return await asyncio.gather(*(self.call(person, operation, **arguments) for _ in range(times)))

    async def open_private_chat(self, person: Person, peer: Person) -> Any:
        """Open the private chat of two users."""
        return await self.do(person, "open_private_chat", user_id=peer.id)

    async def create_group(self, creator: Person, *members: Person, title: str = "Trip", **fields: Any) -> Any:
        """Create a group."""
        member_ids = [member.id for member in members]
        return await self.do(creator, "create_group", title=title, member_ids=member_ids, **fields)

    async def history(self, person: Person, chat_id: str, **bounds: int) -> Any:
        """Return the messages of a page."""
        return (await self.do(person, "list_messages", chat_id=chat_id, **bounds))["items"]

    async def send(self, person: Person, chat_id: str, text: str = "hello", **fields: Any) -> Any:
        """Send a text with a new client_id."""
        content = {"type": "text", "text": text, "client_id": str(uuid4())} | fields
        return await self.do(person, "send_message", chat_id=chat_id, **content)


class SocketTransport(Transport):
    name = "socket"

    async def call(self, person: Person, operation: str, **arguments: Any) -> Answer:
        if not person.sockets:
            await person.connect()
        return await person.socket.call(operation, arguments)

    async def call_at_once(self, person: Person, times: int, operation: str, **arguments: Any) -> list[Answer]:
        # Commands of one connection run one after another.
        sockets = [await person.connect() for _ in range(times)]
        return await asyncio.gather(*(socket.call(operation, arguments) for socket in sockets))


class HttpTransport(Transport):
    """Finds each operation by its id in the service's own OpenAPI document."""

    name = "http"

    def __init__(self, openapi: dict[str, Any]) -> None:
        self.routes: dict[str, tuple[str, str, dict[str, Any]]] = {
            operation["operationId"]: (method, path, operation)
            for path, methods in openapi["paths"].items()
            for method, operation in methods.items()
        }
        # The command alone has this name; the route of `update_mine` takes the same.
        if "update_mine" in self.routes:
            self.routes["rename_chat"] = self.routes["update_mine"]

    async def call(self, person: Person, operation: str, **arguments: Any) -> Answer:
        method, path, described = self.routes[operation]
        for parameter in described.get("parameters", []):
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", str(arguments.pop(parameter["name"])))
        in_query = {p["name"] for p in described.get("parameters", []) if p["in"] == "query"}
        query = {name: arguments.pop(name) for name in list(arguments) if name in in_query}
        body = {"json": arguments} if "requestBody" in described else {}
        if arguments and not body:
            query |= arguments
        response = await person.http.request(method, path, params=query, **body)
        return http_answer(response)


def http_answer(response: httpx.Response) -> Answer:
    """An HTTP response as an Answer."""
    if response.is_success:
        return Answer(response.status_code, response.json() if response.content else None, None)
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert problem["status"] == response.status_code and problem["request_id"] == response.headers["x-request-id"]
    return Answer(response.status_code, None, problem["code"])
