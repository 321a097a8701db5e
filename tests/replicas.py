"""The services of compose.yaml as processes of this machine, with its commands and settings.

Each has a loopback address of its own under its name. Users chat through the proxy while one server is killed and
then all are replaced one after the other. No acknowledged message may be lost, doubled or reordered.
"""

import asyncio
import json
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from uuid import UUID, uuid4

import asyncpg
import httpx
import jwt
from socketio.exceptions import SocketIOError

from chat_app.cli.embedded import embedded_postgres, valkey_command
from tests import image_proxy, smoke
from tests.clients import Answer, Person, SocketTransport, http_answer, until
from tests.conftest import free_port

if TYPE_CHECKING:
    from tests.image import Stage

SERVERS = ("app-1", "app-2")
PHONES = (smoke.ANNA, smoke.BORIS)
# Docker's default before it kills a container, and the least that compose.yaml gives.
STOP_SECONDS = 10
# The messages of each writer between two faults.
MESSAGES = 20
PAUSE_SECONDS = 0.02


class Services:
    def __init__(self, stages: dict[str, "Stage"], place: Path, compose: dict[str, Any]) -> None:
        self.stages, self.image, self.place = stages, stages["image"], place
        self.port = free_port()
        # Without a .env file.
        plain = interpolate(json.dumps(compose))
        (subnet,) = json.loads(plain)["networks"]["default"]["ipam"]["config"]
        # Here the proxy reaches the servers from this address.
        self.services: dict[str, Any] = json.loads(plain.replace(subnet["subnet"], "127.0.0.1"))["services"]
        network = f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}"
        self.addresses = {name: f"{network}.{number}" for number, name in enumerate(self.services, 1)}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def proxy(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def proxy_log(self) -> Path:
        return self.place / "proxy.log"

    def base(self, name: str) -> str:
        """The address of one server, without the proxy."""
        return f"http://{self.addresses[name]}:8000"

    def environment(self, name: str) -> dict[str, str]:
        """The environment, but with other addresses: here all services share one network."""
        changed = {"CHAT_HOST": self.addresses[name], "CHAT_LOG_LEVEL": "WARNING", "CHAT_RATE_LIMITS": "off"}
        return self.services[name]["environment"] | changed | {"PROXY_PORT": str(self.port)}

    def command(self, name: str) -> list[str]:
        service, stage = self.services[name], self.stages.get(name, self.image)
        words = service.get("command", self.image.commands["CMD"])
        return stage.command(words, self.environment(name), service.get("user"))

    @contextmanager
    def all(self) -> Iterator[None]:
        """Run all services, each after those that it needs."""
        self._prepare()
        with ExitStack() as stack:
            settings = {"listen_addresses": self.addresses["postgres"], "port": "5432"}
            stack.enter_context(embedded_postgres(self.place / "postgres", settings=settings))
            asyncio.run(_make_database(self.addresses["postgres"]))
            stack.callback(self._kill_all)
            (self.place / "valkey").mkdir()
            valkey = [*valkey_command()[:1], *self.services["valkey"]["command"][1:]]
            where = ["--bind", self.addresses["valkey"], "--dir", str(self.place / "valkey"), "--loglevel", "warning"]
            self.running["valkey"] = subprocess.Popen(valkey + where)
            subprocess.run(self.command("migrate"), check=True)
            assert self.health(SERVERS[0]), "healthy without a server"
            for name in SERVERS:
                self.start(name)
            stack.push(self._show_log_of_failure)
            with self.proxy_log.open("w") as log:
                self.running["proxy"] = subprocess.Popen(self.command("proxy"), stderr=log)
            yield

    def start(self, name: str) -> None:
        self.running[name] = subprocess.Popen(self.command(name))
        smoke.wait_until_ready(self.base(name))

    def stop(self, name: str) -> None:
        self.running[name].terminate()
        assert self.running[name].wait(STOP_SECONDS) == 0, "SIGTERM does not end it in order"

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def health(self, name: str) -> int:
        """The status of the image's own health check."""
        # The check asks 127.0.0.1, the address of the server inside a container.
        words = [word.replace("127.0.0.1", self.addresses[name]) for word in self.image.commands["HEALTHCHECK"]]
        check = self.image.command(words, self.environment(name))
        return subprocess.run(check, check=False, stderr=subprocess.DEVNULL).returncode

    def _prepare(self) -> None:
        """Set up the host names, the volumes and the read-only mounts."""
        hosts = "".join(f"{address} {name}\n" for name, address in self.addresses.items())
        for name, stage in (("app-1", self.image), ("proxy", self.stages["proxy"])):
            (stage.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
            stage.mount(self.services[name])

    def _show_log_of_failure(self, error: type[BaseException] | None, *_: object) -> None:
        if error:
            sys.stderr.write(self.proxy_log.read_text()[-4000:])

    def _kill_all(self) -> None:
        for name in self.running:
            self.kill(name)


def interpolate(text: str) -> str:
    """Replace the variables of a compose file by their defaults."""
    # The inner ones first: a default may have a variable.
    while (plain := re.sub(r"\$\{\w+:-([^${}]*)\}", r"\1", text)) != text:
        text = plain
    return text


async def _make_database(address: str) -> None:
    connection = await asyncpg.connect(f"postgresql://postgres@{address}/postgres")
    await connection.execute("CREATE ROLE chat LOGIN")
    await connection.execute("CREATE DATABASE chat OWNER chat")
    await connection.close()


def check(services: Services) -> None:
    smoke.main(f"{services.proxy}/")
    for name in SERVERS:
        assert services.health(name) == 0, f"{name} is not healthy"
        assert smoke.fetch(f"{services.base(name)}/metrics")
    for path in ("metrics", "metrics/", "//metrics", "%6Detrics", "METRICS", "docs/../metrics"):
        assert _status(f"{services.proxy}/{path}") == 404, f"/{path} is public"
    image_proxy.check_log(services.proxy, services.proxy_log)
    asyncio.run(image_proxy.check_addresses(services.proxy, services.addresses["postgres"]))
    asyncio.run(_chat_through_faults(services))
    for name in SERVERS:
        services.stop(name)
    image_proxy.check_log_of_errors(services.proxy, services.proxy_log)
    image_proxy.check_body_limit(services.proxy, services.addresses["app-1"])


def _status(address: str) -> int:
    try:
        smoke.fetch(address)
    except HTTPError as error:
        return error.code
    return 200


async def log_in(base: str, phone: str) -> Person:
    form = {"username": phone, "password": smoke.PASSWORD}
    async with httpx.AsyncClient(base_url=base, verify=False) as http:
        token = (await http.post("/api/v1/auth/login", data=form)).json()["access_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    return Person(base, UUID(claims["sub"]), UUID(claims["sid"]), token, phone)


class Writer:
    """Sends numbered texts one after the other, each with the same client_id until it is answered."""

    def __init__(self, person: Person, transport: str, chat_id: str) -> None:
        self.person, self.transport, self.chat_id = person, transport, chat_id
        self.acked: list[int] = []

    async def write(self, enough: asyncio.Event) -> None:
        while not enough.is_set():
            text, client_id = f"{self.transport} {len(self.acked)}", str(uuid4())
            message = {"type": "text", "text": text, "client_id": client_id}
            answer = None
            while answer is None or answer.code == "unavailable":
                answer = await self._try(message)
                await asyncio.sleep(PAUSE_SECONDS)
            assert answer.ok, answer
            self.acked.append(answer.data["seq"])

    async def _try(self, message: dict[str, str]) -> Answer | None:
        """The answer, None without one."""
        try:
            if self.transport == "http":
                response = await self.person.http.post(f"/api/v1/chats/{self.chat_id}/messages", json=message)
                # 502: the server ended after the proxy had forwarded the request.
                return None if response.status_code == 502 else http_answer(response)
            if not (self.person.sockets and self.person.sockets[-1].client.connected):
                await self.person.connect()
            return await self.person.sockets[-1].call("send_message", {"chat_id": self.chat_id, **message})
        except (SocketIOError, httpx.TransportError, TimeoutError):
            return None


async def _chat_through_faults(services: Services) -> None:
    anna, boris = [await log_in(services.proxy, phone) for phone in PHONES]
    chat_id = (await SocketTransport().open_private_chat(anna, boris))["id"]
    await _chat_across(services, chat_id)
    before = len(await _texts(services.base("app-1"), chat_id))

    writers = [Writer(anna, "socket", chat_id), Writer(boris, "http", chat_id)]
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for writer in writers:
            tasks.create_task(writer.write(enough))
        for disturb in _faults(services):
            goal = [len(writer.acked) + MESSAGES for writer in writers]
            await until(lambda goal=goal: all(len(w.acked) >= g for w, g in zip(writers, goal, strict=True)), 60)
            await asyncio.to_thread(disturb)
        enough.set()
    assert len(anna.sockets) > 1, "no client had to reconnect"
    for person in (anna, boris):
        await person.close()
    for name in SERVERS:
        _compare(writers, (await _texts(services.base(name), chat_id))[before:], before)


def _faults(services: Services) -> Iterator[Callable[[], None]]:
    yield lambda: services.kill("app-1")
    yield lambda: services.start("app-1")
    for name in SERVERS:
        yield lambda name=name: services.stop(name)  # type: ignore[misc]
        yield lambda name=name: services.start(name)  # type: ignore[misc]
    yield lambda: None


async def _chat_across(services: Services, chat_id: str) -> None:
    """A message sent to one server reaches a client of the other, in both directions."""
    anna, boris = [await log_in(services.base(name), phone) for name, phone in zip(SERVERS, PHONES, strict=True)]
    for sender, receiver in ((anna, boris), (boris, anna)):
        await receiver.open(chat_id)
        sent = await SocketTransport().send(sender, chat_id)
        await receiver.socket.wait_for("messages_changed", partial(_contains, sent))
    for person in (anna, boris):
        await person.close()


def _contains(message: dict[str, Any], event: dict[str, Any]) -> bool:
    return message["seq"] in [shared["seq"] for shared in event["messages"]]


async def _texts(base: str, chat_id: str) -> list[str]:
    """All texts of the chat as this server returns them, from seq 1 on."""
    reader = await log_in(base, smoke.BORIS)
    messages: list[dict[str, Any]] = []
    while not messages or messages[0]["seq"] > 1:
        bounds = {"before": messages[0]["seq"]} if messages else {}
        page = await SocketTransport().history(reader, chat_id, **bounds)
        messages = sorted(page, key=lambda message: message["seq"]) + messages
    await reader.close()
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1)), "not 1, 2, 3 …"
    return [message["text"] for message in messages]


def _compare(writers: list[Writer], texts: list[str], before: int) -> None:
    for writer in writers:
        places = [(text, seq) for seq, text in enumerate(texts, before + 1) if text.startswith(writer.transport)]
        acked = [(f"{writer.transport} {number}", seq) for number, seq in enumerate(writer.acked)]
        assert places == acked, f"lost, doubled or elsewhere: {sorted({*places} ^ {*acked})}"
