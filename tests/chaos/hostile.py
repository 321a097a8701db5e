"""More faults of a run: clients that don't behave, and a machine that is busy with something else."""

import asyncio
import base64
import socket
import subprocess
import sys
from contextlib import suppress
from random import Random
from urllib.parse import urlencode

import orjson

from tests.chaos.faults import fault, one, seconds
from tests.chaos.stage import Stage
from tests.chaos.wire import ConnectionEnded, Http, Refusal, Socket
from tests.media import pictures

FORM = "application/x-www-form-urlencoded"
FLOOD_SECONDS = 6.0


async def readers(stage: Stage, random: Random, *, is_reading: bool) -> str:
    """More connections of people who take part, which read slowly or not at all."""
    sockets = []
    for client in random.sample(stage.clients, min(8, len(stage.clients))):
        extra = Socket(lambda name, data: None, lambda why: None)
        auth = {"token": client.token, "active_chat_id": client.model.open_chat_id}
        with suppress(Refusal, ConnectionEnded, OSError, TimeoutError):
            await extra.connect(random.choice(stage.nodes).entrance, auth)
            raw: socket.socket = extra.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            extra.transport.pause_reading()
            sockets.append(extra)
    length = seconds(random, 8, 12)
    for _ in range(int(length / 0.25)):
        await asyncio.sleep(0.25)
        for extra in sockets if is_reading else ():
            extra.transport.resume_reading()
            await asyncio.sleep(0)
            extra.transport.pause_reading()
    for extra in sockets:
        extra.transport.abort()
    return f"{len(sockets)} for {length} s"


@fault("slow-readers")
async def slow_readers(stage: Stage, random: Random) -> str:
    return await readers(stage, random, is_reading=True)


@fault("stopped-readers")
async def stopped_readers(stage: Stage, random: Random) -> str:
    return await readers(stage, random, is_reading=False)


@fault("storm")
async def storm(stage: Stage, random: Random) -> str:
    """Many connections at once: some that stay silent, some with a token."""

    async def silent(port: int) -> None:
        with suppress(OSError, TimeoutError):
            _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 10)
            await asyncio.sleep(5)
            writer.transport.abort()

    async def short(port: int, token: str) -> None:
        extra = Socket(lambda name, data: None, lambda why: None)
        with suppress(Refusal, ConnectionEnded, OSError, TimeoutError):
            await extra.connect(port, {"token": token})
            extra.transport.abort()

    ports = [node.entrance for node in stage.nodes]
    tokens = [client.token for client in stage.clients if client.token]
    tasks = [silent(random.choice(ports)) for _ in range(200)]
    tasks += [short(random.choice(ports), random.choice([*tokens, "none"])) for _ in range(200)]
    await asyncio.gather(*tasks)
    return f"{len(tasks)} connections"


async def flood(stage: Stage, random: Random, path: str, body: bytes, kind: str, *, method: str = "POST") -> str:
    """The same request again and again over several connections; 5xx other than 503 is against the promise."""
    statuses: dict[int, int] = {}
    ends = asyncio.get_running_loop().time() + FLOOD_SECONDS

    async def send(port: int, token: str) -> None:
        http = Http(port)
        while asyncio.get_running_loop().time() < ends:
            with suppress(ConnectionEnded, OSError, TimeoutError):
                status, _ = await http.request(method, path, body, kind, token)
                statuses[status] = statuses.get(status, 0) + 1
        http.close()

    node = one(stage, random)
    await asyncio.gather(*(send(node.entrance, random.choice(stage.clients).token) for _ in range(6)))
    for status in statuses:
        if status >= 500 and status != 503:
            text = f"{path} on {node.name} under a flood: {status}"
            stage.recorder.write("note", violation="server error", promise="P25", text=text)
    return f"{path} on {node.name}: {statuses}"


@fault("login-flood")
async def login_flood(stage: Stage, random: Random) -> str:
    phone = random.choice(stage.world.people).phone
    body = urlencode({"username": phone, "password": "not the right one"}).encode()
    return await flood(stage, random, "/api/v1/auth/login", body, FORM)


@fault("picture-flood")
async def picture_flood(stage: Stage, random: Random) -> str:
    image = base64.b64encode(pictures.encoded(pictures.corners().resize((900, 900)), "PNG")).decode()
    body = orjson.dumps({"image": image})
    return await flood(stage, random, "/api/v1/users/me/avatar", body, "application/json", method="PUT")


@fault("cpu-hog")
async def cpu_hog(stage: Stage, random: Random) -> str:
    """Another program takes all the processors it gets."""
    length = seconds(random, 5, 8)
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]  # noqa: ASYNC220
    try:
        await asyncio.sleep(length)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    return f"{len(hogs)} loops for {length} s"
