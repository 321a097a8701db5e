"""A wrong URL of the database or the bus is refused with one line, which names the variable and never the password."""

import asyncio
import os
import re
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy
from pydantic import ValidationError

from chat_app.cli.embedded import embedded_postgres, valkey_command, wait_for_valkey
from chat_app.database import Database
from chat_app.settings import Settings
from tests.conftest import FAST, free_port
from tests.process import ROOT, Process

# It begins with digits, so that a parser may take it for a port.
PASSWORD = re.compile("4711|zyxwv")
RUN_SECONDS = 100
PRODUCTION = {"CHAT_ENV": "production", "CHAT_SECRET": "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66"}
COMMANDS = {
    "run": ["run"],
    "several": ["run", "--workers", "2"],
    "migrate": ["migrate"],
    "seed": ["seed"],
    "check": ["check"],
    "create-user": ["create-user", "+79161234567"],
    "revoke-sessions": ["revoke-sessions", "+79161234567"],
    "verify": ["verify"],
    "sweep": ["sweep"],
    "alembic": ["alembic", "current"],
}
# A wrong URL, and a word of the line that refuses it. The rest of each URL is that of the server below.
UNREADABLE = {
    "chat:4711zyxwv@127.0.0.1/chat": "begin with",
    "mysql://chat:4711zyxwv@127.0.0.1/chat": "begin with",
    "postgresql:/chat:4711zyxwv@127.0.0.1/chat": "begin with",
    "postgresql//chat:4711zyxwv@127.0.0.1/chat": "begin with",
    " postgresql://chat:4711zyxwv@127.0.0.1/chat": "begin with",
    "postgresql://chat:4711zyxwv@127.0.0.1/chat\n": "space",
    "postgresql://chat:4711 zyxwv@127.0.0.1/chat": "space",
    "postgresql://chat:4711zyxwv@127.0.0.1:54E2/chat": "port",
    "postgresql://chat:4711zyxwv@127.0.0.1:0/chat": "port",
    "postgresql://chat:4711zyxwv@127.0.0.1:99999/chat": "port",
    "postgresql://chat:4711zyxwv@[127.0.0.1/chat": "brackets",
    "postgresql://chat:4711%zyxwv@127.0.0.1/chat": "%",
    "postgresql://chat:4711zyxwv%00@127.0.0.1/chat": "%",
    "postgresql://chat:4711/zyxwv@127.0.0.1/chat": "%2F",
    "postgresql://chat:4711?zyxwv@127.0.0.1/chat": "%3F",
    "postgresql://chat:4711#zyxwv@127.0.0.1/chat": "%23",
    "postgresql://chat:4711@zyxwv@127.0.0.1/chat": "%40",
}
UNUSABLE = {
    "postgresql://chat:4711zyxwv@127.0.0.1:{free}/chat": "reached",
    "postgresql://chat:4711zyxwv@:{free}/chat": "resolve",
    "postgresql://chat:4711zyxwv@nowhere.invalid/chat": "resolve",
    "postgresql://chat:4711zyxwv@/chat?host=/nowhere": "reached",
    "postgresql://chat:4711zyxwv@127.0.0.1:{port}/chat": "password",
    "postgresql://nobody:4711zyxwv@127.0.0.1:{port}/chat": "password",
    "postgresql://chat@127.0.0.1:{port}/chat": "password",
    "postgresql://other:4711zyxwv@127.0.0.1:{port}/chat": "pg_hba",
    "postgresql://chat:right-zyxwv@127.0.0.1:{port}/4711": "database",
    "postgresql://chat:right-zyxwv@127.0.0.1:{port}/chat?sslmode=4711": "option",
    "postgresql://chat:right-zyxwv@127.0.0.1:{port}/chat?unknown=4711": "option",
    "postgresql://chat:right-zyxwv@127.0.0.1:{port}/chat?statement_timeout=zyxwv": "option",
    "postgresql://chat:right-zyxwv@127.0.0.1:{port}/chat?sslmode=require": "reached",
    "postgresql://weak:right-zyxwv@127.0.0.1:{port}/chat": "right",
}
BAD_BUS = {
    "localhost:6379": "begin with",
    "http://:4711zyxwv@localhost": "begin with",
    "redis:/:4711zyxwv@localhost": "begin with",
    "redis://:4711zyxwv@localhost:63x": "port",
    "redis://:4711zyxwv@localhost:70000": "port",
    "redis://:4711 zyxwv@localhost": "space",
    "redis://:4711%zyxwv@localhost": "%",
    "redis://:4711/zyxwv@localhost": "%2F",
    "valkey://:zyxwv@localhost?unknown=4711": "option",
    "valkey://:zyxwv@localhost?socket_timeout=4711x": "option",
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a PostgreSQL that requires passwords. The role chat has a password and a database."""
    with tempfile.TemporaryDirectory(prefix="chat-addresses-", ignore_cleanup_errors=True) as folder:
        rules = Path(folder) / "hba.conf"
        rules.write_text("local all postgres trust\nhost all chat,weak,nobody 127.0.0.1/32 scram-sha-256\n")
        Path(folder).chmod(0o755)
        port = free_port()
        listening = {"listen_addresses": "127.0.0.1", "port": str(port), "hba_file": str(rules)}
        with embedded_postgres(Path(folder) / "postgres", settings=FAST | listening) as url:
            asyncio.run(make_role(f"{url}&port={port}"))
            yield port


async def make_role(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE ROLE chat LOGIN PASSWORD 'right-zyxwv'")
    await connection.execute("CREATE DATABASE chat OWNER chat")
    await connection.execute("CREATE ROLE weak LOGIN PASSWORD 'right-zyxwv'")
    await connection.close()


# As in a terminal.
PLAIN_ERRORS = {"CHAT_LOG_LEVEL": "ERROR", "CHAT_LOG_FORMAT": "console"}


async def refusal(command: str, **environment: str) -> str:
    """Run a command that has to refuse its settings. Returns its output, after the checks common to all refusals."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHAT_", "PG"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chat_app", *COMMANDS[command]),
        cwd=ROOT,
        env=kept | {"CHAT_PORT": str(free_port()), **PLAIN_ERRORS} | environment,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    written = await asyncio.wait_for(process.communicate(b"some-password\n"), RUN_SECONDS)
    printed, errors = (text.decode() for text in written)
    assert process.returncode == 1, printed + errors
    assert not PASSWORD.search(printed + errors)
    assert "Traceback" not in errors
    if command == "check" and printed:
        return printed
    assert printed == ""
    assert errors.count("\n") == 1, errors
    return errors


@pytest.mark.parametrize("address", UNREADABLE)
async def test_an_unreadable_database_url_is_refused(address: str) -> None:
    errors = await refusal("migrate", CHAT_DATABASE_URL=address)
    assert errors.startswith("CHAT_DATABASE_URL: ")
    assert UNREADABLE[address] in errors


@pytest.mark.parametrize("address", UNUSABLE)
async def test_an_unusable_database_is_refused(address: str, port: int) -> None:
    errors = await refusal("migrate", CHAT_DATABASE_URL=address.format(port=port, free=free_port()))
    assert errors.startswith("CHAT_DATABASE_URL: ")
    assert UNUSABLE[address] in errors


@pytest.mark.parametrize("command", COMMANDS)
async def test_every_command_refuses_an_unreadable_database_url(command: str) -> None:
    address = "postgresql://chat:4711zyxwv@127.0.0.1:54E2/chat"
    assert "CHAT_DATABASE_URL: " in await refusal(command, CHAT_DATABASE_URL=address)


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        *((command, {}) for command in COMMANDS),
        ("run", PRODUCTION),
        ("several", PRODUCTION),
    ],
)
async def test_every_command_refuses_a_wrong_password(command: str, environment: dict[str, str], port: int) -> None:
    address = f"postgresql://chat:4711zyxwv@127.0.0.1:{port}/chat"
    errors = await refusal(command, CHAT_DATABASE_URL=address, CHAT_BUS_URL="redis://127.0.0.1", **environment)
    assert "CHAT_DATABASE_URL: the role or its password is wrong" in errors


@pytest.mark.parametrize("address", BAD_BUS)
async def test_an_unreadable_bus_url_is_refused(address: str, port: int) -> None:
    database = f"postgresql://chat:right-zyxwv@127.0.0.1:{port}/chat"
    errors = await refusal("run", CHAT_DATABASE_URL=database, CHAT_BUS_URL=address)
    assert errors.startswith("CHAT_BUS_URL: ")
    assert BAD_BUS[address] in errors


async def test_two_wrong_urls_make_two_errors() -> None:
    both = {"database_url": "mysql://:zyxwv@host", "bus_url": "http://:zyxwv@host"}
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate(both)
    assert len(refused.value.errors()) == 2
    assert not PASSWORD.search(str(refused.value))


async def test_a_wrong_password_of_the_bus_is_logged_and_the_service_starts(service_settings: Settings) -> None:
    with tempfile.TemporaryDirectory(prefix="chat-bus-", dir="/tmp") as folder:
        path, port = Path(folder) / "valkey.sock", str(free_port())
        command = valkey_command("--port", port, "--unixsocket", str(path), "--requirepass", "right")
        bus = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL)
        node = Process(service_settings)
        node.environment["CHAT_BUS_URL"] = f"redis://:4711zyxwv@127.0.0.1:{port}"
        try:
            await asyncio.to_thread(wait_for_valkey, path)
            await node.start()
            line = await node.wait_for(event="bus lost")
            printed = await refusal_of_check(node.environment)
        finally:
            await node.stop()
            bus.terminate()
            await bus.wait()
    assert (line["error"], line["address"]) == ("AuthenticationError", "CHAT_BUS_URL")
    assert "CHAT_BUS_URL: the user or password is wrong" in printed
    # Its digits alone also occur in ids and times.
    assert "zyxwv" not in printed + "".join(node.written)


async def refusal_of_check(environment: dict[str, str]) -> str:
    return await refusal("check", **{name: environment[name] for name in ("CHAT_DATABASE_URL", "CHAT_BUS_URL")})


async def test_options_of_the_url_apply_to_all_connections(port: int) -> None:
    address = f"postgresql://chat:right-zyxwv@127.0.0.1:{port}/chat?sslmode=prefer&application_name=named"
    database = Database(address.replace("postgresql:", "postgresql+asyncpg:"))
    async with database.engine.connect() as connection, database.reading() as batch:
        question = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'named'"
        assert (await connection.scalar(sqlalchemy.text(question)), len(await batch.fetch(question))) == (0, 1)
    await database.close()


async def test_a_server_that_does_not_answer_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"postgresql://chat:4711zyxwv@127.0.0.1:{silent.getsockname()[1]}/chat"
        assert await refusal("migrate", CHAT_DATABASE_URL=address) == "CHAT_DATABASE_URL: no answer in time\n"
