"""Generated requests and commands, from the published documents: none gets a 5xx but 503, and each is answered."""

import asyncio
import base64
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlencode

import orjson

from chat_app.live.commands import COMMANDS
from tests.chaos.nodes import Node
from tests.chaos.wire import ConnectionEnded
from tests.generator import Generator
from tests.media import pictures
from tests.operations import DOCUMENT, ROUTES, Json, Route
from tests.volume.device import Device
from tests.volume.pictures import BOUNDARY, multipart
from tests.volume.servers import Servers, Usage, check_nothing_left
from tests.volume.sharing import surely

PEOPLE = 8
MOST_BYTES = 96 << 20
FORGET_SECONDS = 60.0
WARM_UP = 500
# They hash passwords, which takes as long as a hundred others.
SLOW = {"login", "register", "change_password", "login_with_code", "reset_password"}
SHARE_SLOW = 0.02
SHARE_BROKEN = 0.05


@dataclass
class Client:
    """Somebody who asks for anything: over HTTP and, with another session, over a connection."""

    servers: Servers
    random: Random
    schemas: dict[str, Json]
    ids: list[str]
    statuses: Counter[int]
    generator: Generator = field(init=False)
    devices: list[Device] = field(default_factory=list)
    user_id: str = ""

    async def prepare(self) -> None:
        self.user_id = await self.servers.make_user()
        self.ids.append(self.user_id)
        for _ in range(2):
            self.devices.append(Device(self.servers, await self.servers.log_in(self.user_id)))
        await self.devices[1].connect(self.servers.nodes[0])

    async def ask(self) -> None:
        """One of either."""
        if self.random.random() < 0.5:
            await self.request()
        else:
            await self.command()

    async def request(self) -> None:
        name = self.random.choice(list(ROUTES.keys() - SLOW if self.random.random() > SHARE_SLOW else SLOW))
        route = ROUTES[name]
        body, kind = self._body(route)
        url = route.url(self._parameters(route))
        try:
            status, answer = await self.devices[0].request(self.servers.nodes[0], route.method, url, body, kind)
        except (ConnectionEnded, TimeoutError, OSError) as error:
            status, answer = 0, repr(error).encode()
        self._judge(status, answer, f"{route.method} {url} {body[:300]!r}")
        if status == 401 and name not in SLOW:
            self.devices[0].close()
            self.devices[0] = Device(self.servers, await self.servers.log_in(self.user_id))
        elif name in {"create_group", "open_private_chat"} and status in (200, 201):
            self.ids.append(orjson.loads(answer)["id"])

    def _parameters(self, route: Route) -> Json:
        schemas = route.parameters("path") | route.parameters("query")
        made = {name: self.generator.value(schema) for name, schema in schemas.items()}
        return {name: value for name, value in made.items() if value is not None and self.random.random() < 0.8}

    def _body(self, route: Route) -> tuple[bytes, str]:
        kind = route.content_type
        if kind is None:
            return b"", "application/json"
        schema = route.body_schema()
        if kind == "application/json":
            body = orjson.dumps(self.generator.argument(schema), option=orjson.OPT_NON_STR_KEYS)
        else:
            fields = self._fields(schema)
            body = urlencode(fields).encode()
            if kind == "multipart/form-data":
                body, kind = multipart(fields, b"Notes", "text/plain"), f"{kind}; boundary={BOUNDARY}"
        if self.random.random() < SHARE_BROKEN:
            at = self.random.randrange(len(body) + 1)
            body = body[:at] + self.random.randbytes(self.random.randrange(3)) + body[at + 1 :]
        return body, kind

    def _fields(self, schema: Json) -> Json:
        argument = self.generator.argument(schema)
        if not isinstance(argument, dict):
            return {}
        return {name: str(value) for name, value in argument.items() if name != "file"}

    async def command(self) -> None:
        name = self.random.choice(list(COMMANDS))
        argument: Any = self.generator.argument(self.schemas[name])
        try:
            answer = await self.devices[1].sockets[self.servers.nodes[0].name].call(name, argument)
            status = answer["status"] if answer["ok"] else answer["error"]["status"]
        except (ConnectionEnded, TimeoutError) as error:
            answer, status = {"error": repr(error)}, 0
            former, self.devices[1] = self.devices[1], Device(self.servers, await self.servers.log_in(self.user_id))
            await self.devices[1].connect(self.servers.nodes[0])
            # A change of the password ends the user's other sessions.
            if (await former.request(self.servers.nodes[0], "GET", ROUTES["get_me"].path))[0] == 401:
                status = 401
            former.close()
        self._judge(status, str(answer).encode(errors="replace"), f"{name} {str(argument)[:300]}")

    def _judge(self, status: int, answer: bytes, what: str) -> None:
        self.statuses[status] += 1
        if not (200 <= status < 500 or status == 503):
            self.servers.violations.append(f"P25 {status} {answer[:300]!r} for {what}")


async def run(servers: Servers, count: int, random: Random) -> str:
    """Requests of some people at once. Returns the figures."""
    device = Device(servers, await servers.log_in())
    _, document = await device.request(servers.nodes[0], "GET", "/asyncapi.json")
    components = orjson.loads(document)["components"]
    schemas = {name: components["messages"][name]["payload"] for name in COMMANDS}
    definitions = components["schemas"] | DOCUMENT["components"]["schemas"]
    ids: list[str] = []
    statuses: Counter[int] = Counter()
    node = servers.nodes[0]
    await _start_processes(device, node)
    device.close()
    idle = await Usage.of(servers, node)
    clients = [Client(servers, Random(random.getrandbits(32)), schemas, ids, statuses) for _ in range(PEOPLE)]
    for client in clients:
        client.generator = Generator(client.random, definitions, ids)
        await client.prepare()
    await _ask(clients, min(WARM_UP, count))
    before = await Usage.of(servers, node)
    await _ask(clients, max(0, count - WARM_UP))
    for client in clients:
        for device in client.devices:
            device.close()
    idle.memory = before.memory
    after = await check_nothing_left(servers, node, idle, most_bytes=MOST_BYTES, seconds=FORGET_SECONDS)
    if count >= WARM_UP and not {200, 201, 204, 403, 404, 409, 422} <= statuses.keys():
        servers.violations.append(f"these requests prove little: {dict(statuses)}")
    memory = f"memory {before.memory >> 20} then {after.memory >> 20} MiB"
    return f"statuses {dict(sorted(statuses.items()))}, {memory}"


async def _start_processes(device: Device, node: Node) -> None:
    """Pictures at the same time, as the processes that read them stay for good."""
    body = orjson.dumps({"image": base64.b64encode(pictures.encoded(pictures.photo((2000, 1500)), "JPEG")).decode()})
    path = ROUTES["set_avatar"].path
    await asyncio.gather(*(surely(lambda: device.request(node, "PUT", path, body)) for _ in range(4)))


async def _ask(clients: list[Client], count: int) -> None:
    left = iter(range(count))

    async def ask(client: Client) -> None:
        for _ in left:
            await client.ask()

    await asyncio.gather(*map(ask, clients))
