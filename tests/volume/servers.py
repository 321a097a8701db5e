"""The servers of one part, and people who are logged in: written to the database directly, as hashing takes long."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psutil
from pydantic import SecretStr

from chat_app.auth import SessionStrategy
from chat_app.crud.sessions import open_session
from chat_app.database import Database
from chat_app.models.sessions import Tokens
from chat_app.settings import Settings, use_settings
from tests.chaos import nodes
from tests.chaos.nodes import Node, Postgres, Valkey
from tests.chaos.wire import Http
from tests.clients import until
from tests.factories import UserFactory

BUS_SECONDS = 30.0


@dataclass
class Login:
    """One session of a user."""

    user_id: str
    session_id: str
    tokens: Tokens

    @property
    def token(self) -> str:
        return self.tokens.access_token


@dataclass
class Servers:
    """Nodes without a network between them and the clients; `violations` of whatever is promised, in words."""

    folder: Path
    postgres: Postgres
    valkey: Valkey | None
    nodes: list[Node]
    database: Database
    violations: list[str] = field(default_factory=list)

    async def make_user(self, name: str = "Somebody") -> str:
        async with self.database.transaction() as db:
            return str((await UserFactory.make(db, name=name)).id)

    async def log_in(self, user_id: str | None = None) -> Login:
        """One more session of a user, or of a new one."""
        user_id = user_id or await self.make_user()
        async with self.database.transaction() as db:
            opened = await open_session(db, UUID(user_id), "tests")
        return Login(user_id, str(opened.actor.session_id), SessionStrategy().tokens(opened))

    async def set_bus(self, *, is_up: bool) -> None:
        """Leave the bus alone or kill it, and return when every node has noticed."""
        if not is_up and self.valkey:
            self.valkey.kill()
        async with asyncio.timeout(BUS_SECONDS):
            for node in self.nodes:
                while await gauge(node, "chat_bus_up") != is_up:  # noqa: ASYNC110  # another process
                    await asyncio.sleep(0.1)

    def check_logs(self) -> None:
        """Every line is JSON, and none reports a crash."""
        for node in self.nodes:
            for line in (self.folder / f"node-{node.name}.log").read_text(errors="replace").splitlines():
                if not line.startswith("{") or "Traceback" in line or json.loads(line)["event"] == "crashed":
                    self.violations.append(f"node {node.name} logged {line[:1500]}")


async def gauge(node: Node, name: str) -> float:
    """A figure of /metrics."""
    http = Http(node.port)
    _, text = await http.request("GET", "/metrics")
    http.close()
    found = re.search(rf"^{name} (\S+)$", text.decode(), re.MULTILINE)
    assert found, f"no {name} in /metrics"
    return float(found[1])


@asynccontextmanager
async def serving(folder: Path, names: Sequence[str], launcher: Sequence[str]) -> AsyncIterator[Servers]:
    """Started, and ended with the run. Several nodes get a bus."""
    async with AsyncExitStack() as stack:
        postgres = Postgres(folder)
        await postgres.start()
        stack.push_async_callback(postgres.stop)
        environment = nodes.settings(folder, 9) | {"CHAT_DATABASE_URL": postgres.url}
        settings = Settings(secret=SecretStr(environment["CHAT_SECRET"]), database_url=SecretStr(postgres.url))
        use_settings(settings)
        valkey = Valkey() if len(names) > 1 else None
        if valkey:
            await valkey.start()
            stack.callback(valkey.kill)
            environment["CHAT_BUS_URL"] = f"redis://127.0.0.1:{valkey.port}"
        running = [Node(name, folder, launcher) for name in names]
        database = Database(settings.asyncpg_url, patience=60)
        stack.push_async_callback(database.close)
        made = Servers(folder, postgres, valkey, running, database)
        for node in running:
            node.entrance, node.on_end = node.port, made.violations.append
            node.environment = nodes.without_settings() | environment | {"CHAT_PORT": str(node.port)}
            node.environment["COUNTS_FILE"] = str(folder / f"counts-{node.name}.json")
        status, output = await nodes.command(running[0].environment, "migrate")
        assert status == 0, output
        for node in running:
            stack.push_async_callback(_kill, node)
        await asyncio.gather(*(node.start() for node in running))
        yield made
        made.check_logs()


async def _kill(node: Node) -> None:
    if hasattr(node, "process"):
        await node.kill()


@dataclass
class Usage:
    """What a node holds: what it counts itself (see `launch`), and what the system knows of it."""

    memory: int
    descriptors: int
    counts: dict[str, int]

    @classmethod
    async def of(cls, servers: Servers, node: Node) -> "Usage":
        """As it is after the next sweep of the node."""
        path = servers.folder / f"counts-{node.name}.json"
        path.unlink(missing_ok=True)
        await until(path.exists)
        process = psutil.Process(node.process.pid)
        to_database = [
            each for each in process.net_connections() if each.raddr and each.raddr.port == servers.postgres.port
        ]
        return cls(process.memory_info().rss, process.num_fds() - len(to_database), json.loads(path.read_text()))

    def grown(self, before: "Usage") -> list[str]:
        """What is more than before, in words; memory is judged apart."""
        both = [(name, before.counts[name], now) for name, now in self.counts.items()]
        both.append(("descriptors", before.descriptors, self.descriptors))
        return [f"{name}: {then} before, {now} after" for name, then, now in both if now > then]


async def check_nothing_left(servers: Servers, node: Node, before: Usage, *, most_bytes: int, seconds: float) -> Usage:
    """Give a node time to forget what has ended, then note what it still holds."""
    usage = await Usage.of(servers, node)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while usage.grown(before):
                await asyncio.sleep(0.5)
                usage = await Usage.of(servers, node)
    servers.violations += [f"left behind: {text}" for text in usage.grown(before)]
    if usage.memory - before.memory > most_bytes:
        servers.violations.append(f"memory grew from {before.memory >> 20} to {usage.memory >> 20} MiB")
    return usage
