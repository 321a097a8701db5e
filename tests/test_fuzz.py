"""Thousands of generated requests to a fresh server with the demo data get only documented answers.

Run by `make test-fuzz`. `--hypothesis-seed` repeats a run.
"""

import asyncio
import os
import random
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from jsonschema import Draft202012Validator

from chat_app.cli.seed import DEMO_PASSWORD, DEMO_USERS
from chat_app.live.commands import COMMANDS
from tests.clients import DEADLINE, Socket
from tests.conftest import free_port
from tests.generator import Generator
from tests.process import ROOT, START_SECONDS

COMMANDS_SENT = 1500

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(600)]


@pytest.fixture
async def base(data_dir: Path) -> AsyncIterator[str]:
    """The URL of a server as `make run` starts it."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")} | {
        "CHAT_DATA_DIR": str(data_dir / "fuzz"),
        "CHAT_PORT": str(port),
        "CHAT_RATE_LIMITS": "off",
        "CHAT_LOG_LEVEL": "ERROR",
    }
    command = (sys.executable, "-m", "chat_app", "run")
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=PIPE)
    assert process.stdout
    async with asyncio.timeout(START_SECONDS):
        while not (line := await process.stdout.readline()).startswith(b"Ready"):
            assert line, "the server did not start"
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    await asyncio.wait_for(process.wait(), START_SECONDS)


async def test_every_request_is_answered_as_documented(base: str, pytestconfig: pytest.Config) -> None:
    async with httpx.AsyncClient(base_url=base) as client:
        form = {"username": DEMO_USERS[0]["phone"], "password": DEMO_PASSWORD}
        login = await client.post("/api/v1/auth/login", data=form)
    seed = pytestconfig.getoption("hypothesis_seed") or str(pytestconfig.getoption("randomly_seed"))
    command = (str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml", "run")
    options = ("--seed", seed, "--header", f"Authorization: Bearer {login.json()['access_token']}", "--no-color")
    running = await asyncio.create_subprocess_exec(
        *command,
        f"{base}/openapi.json",
        *options,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=PIPE,
        stderr=STDOUT,
    )
    output, _ = await running.communicate()
    assert running.returncode == 0, output.decode()


async def test_every_command_is_answered_as_documented(base: str, pytestconfig: pytest.Config) -> None:
    # Not the user of the generated requests, which may have changed that password.
    seed = pytestconfig.getoption("randomly_seed")
    async with httpx.AsyncClient(base_url=base) as client:
        form = {"username": DEMO_USERS[1]["phone"], "password": DEMO_PASSWORD}
        login = await client.post("/api/v1/auth/login", data=form)
        token = login.json()["access_token"]
        listed = await client.get("/api/v1/chats", headers={"Authorization": f"Bearer {token}"})
        document = (await client.get("/asyncapi.json")).json()
    components = document["components"]
    checks = {
        name: Draft202012Validator(components["messages"][f"{name}_answer"]["payload"] | {"components": components})
        for name in COMMANDS
    }
    ids = [chat["id"] for chat in listed.json()["items"]] + [user["id"] for user in listed.json()["users"]]
    generator = Generator(random.Random(seed), components["schemas"], ids)
    socket = Socket()
    await socket.connect(base, {"token": token})
    statuses: Counter[int] = Counter()
    for number in range(COMMANDS_SENT):
        name = generator.rng.choice(list(COMMANDS))
        argument = generator.argument(components["messages"][name]["payload"])
        ack = await socket.client.call(name, argument, timeout=DEADLINE)
        context = f"seed {seed}, command {number}: {name} {str(argument)[:500]} -> {str(ack)[:500]}"
        checks[name].validate(ack)
        statuses[ack["status"] if ack["ok"] else ack["error"]["status"]] += 1
        assert ack["ok"] or ack["error"]["status"] < 500, context
    await socket.close()
    # Otherwise the test would show little.
    assert {200, 201, 204, 403, 404, 409, 422} <= statuses.keys()
    assert sum(times for status, times in statuses.items() if status < 300) > COMMANDS_SENT / 10
