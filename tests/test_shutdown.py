"""SIGTERM (P24): committed sends are answered, clients get a hint to reconnect, and nothing delays the end."""

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from chat_app.database import Database
from chat_app.settings import Settings
from tests.clients import DEADLINE, Person, SocketTransport, until
from tests.conftest import free_port
from tests.process import ROOT, START_SECONDS, Process
from tests.raw import RawSocket
from tests.service import MakePerson
from tests.silent_names import HOST, SECONDS

pytestmark = pytest.mark.timeout(180)

SLOW = "takes a second to commit"
SET_UP = (
    f"""CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.text = '{SLOW}' THEN PERFORM pg_sleep(1); END IF;
        RETURN NULL;
    END $$""",
    """CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON message DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION slow_commit()""",
)
TAKE_DOWN = ("DROP TRIGGER slow_commit ON message", "DROP FUNCTION slow_commit")
SENDERS = 12


@pytest.fixture
async def slow_commits(database: Database) -> AsyncIterator[AsyncConnection]:
    """Commits of messages with the text SLOW take a second."""
    async with database.engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in SET_UP:
            await connection.execute(text(statement))
        yield connection
        for statement in TAKE_DOWN:
            await connection.execute(text(statement))


async def wait_for_commit(connection: AsyncConnection) -> None:
    sleeping = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    async with asyncio.timeout(DEADLINE):
        while not (await connection.execute(sleeping)).scalar_one():
            pass


async def start_sending(raw: RawSocket, chat_id: str, words: str) -> int:
    """Send a message without waiting. Returns the number of its ack."""
    number = next(raw.numbers)
    content = {"chat_id": chat_id, "type": "text", "text": words, "client_id": str(uuid4())}
    await raw.send(f"42{number}{json.dumps(['send_message', content])}")
    return number


async def test_sends_in_flight_are_answered_and_their_events_delivered(
    service_settings: Settings,
    make_person: MakePerson,
    at: Callable[[str, Person], Person],
    slow_commits: AsyncConnection,
) -> None:
    node = Process(service_settings)
    await node.start()
    reader, *senders = [at(node.base, await make_person(f"Person {number}")) for number in range(SENDERS + 1)]
    chat_id = (await SocketTransport().create_group(reader, *senders))["id"]
    raws = [await RawSocket.connected(node.base, sender.token) for sender in senders]
    idle = await RawSocket.connected(node.base, reader.token)

    numbers = [await start_sending(raws[0], chat_id, SLOW)]
    await wait_for_commit(slow_commits)
    numbers += [await start_sending(raw, chat_id, "waits for the commit before it") for raw in raws[1:]]
    await until(lambda: len(node.lines(command="send_message", event="received")) == SENDERS)
    node.process.terminate()

    answers = [await raw.answer_to(number) for raw, number in zip(raws, numbers, strict=True)]
    assert sorted(answer["data"]["seq"] for answer in answers) == list(range(2, SENDERS + 2))
    counts = [0]
    with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012  # events come before
        while True:
            packet = await idle.receive()
            if packet.startswith('42["chats_changed",'):
                counts.append(json.loads(packet[2:])[1]["chats"][0]["message_count"])
    assert max(counts) == SENDERS + 1
    assert closed.value.rcvd and closed.value.rcvd.code == CloseCode.SERVICE_RESTART
    assert await asyncio.wait_for(node.process.wait(), START_SECONDS) == 0
    await node.kill()


async def test_no_command_is_started_after_sigterm(
    service_settings: Settings,
    make_person: MakePerson,
    at: Callable[[str, Person], Person],
    slow_commits: AsyncConnection,
) -> None:
    node = Process(service_settings)
    await node.start()
    anna, boris = at(node.base, await make_person("Anna")), await make_person("Boris")
    chat_id = (await SocketTransport().open_private_chat(anna, boris))["id"]
    raw = await RawSocket.connected(node.base, anna.token)
    first = await start_sending(raw, chat_id, SLOW)
    await wait_for_commit(slow_commits)
    for _ in range(20):
        await start_sending(raw, chat_id, "waits for the answer before it")
    node.process.terminate()
    answered = await raw.answer_to(first)
    with pytest.raises(ConnectionClosed):  # noqa: PT012  # only events come before
        while True:
            assert not (await raw.receive()).startswith("43")
    assert await asyncio.wait_for(node.process.wait(), START_SECONDS) == 0
    await node.kill()
    written = text("SELECT count(*) FROM message WHERE chat_id = :chat_id")
    assert (await slow_commits.execute(written, {"chat_id": chat_id})).scalar_one() == answered["data"]["seq"]


async def test_stalled_readers_do_not_delay_the_end(
    service_settings: Settings, make_person: MakePerson, at: Callable[[str, Person], Person]
) -> None:
    node = Process(service_settings)
    started = time.monotonic()
    await node.start()
    start_seconds = time.monotonic() - started
    anna = at(node.base, await make_person("Anna"))
    # More than the kernel buffers for a connection.
    file = {"file": ("a file", bytes(24 * 2**20), "application/octet-stream")}
    url = urlsplit((await anna.http.post("/api/v1/attachments", files=file)).json()["url"])
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(node.base).port, limit=1024)
    writer.write(f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: chat\r\n\r\n".encode())
    assert b" 200 " in await reader.readline()
    signalled = time.monotonic()
    node.process.terminate()
    assert await asyncio.wait_for(node.process.wait(), START_SECONDS) == 0
    # A busy machine takes longer for this, as it did for the start.
    assert time.monotonic() - signalled < 10 + start_seconds
    cut_short = node.lines(level="error", logger="uvicorn.error")
    assert any(line["event"].startswith("Cancel 1 running task") for line in cut_short), "the reader did not stall"
    writer.transport.abort()
    await node.kill()


async def test_a_request_that_takes_too_long_is_answered_503(service_settings: Settings) -> None:
    node = Process(service_settings)
    await node.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(node.base).port)
    writer.write(b"POST /api/v1/auth/register HTTP/1.1\r\nHost: chat\r\nContent-Type: application/json\r\n")
    writer.write(b"Content-Length: 100\r\n\r\nThe rest of the body does not come")
    await node.wait_for(event="received", path="/api/v1/auth/register")
    node.process.terminate()
    head, _, body = (await asyncio.wait_for(reader.read(), START_SECONDS)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: 1\r\n" in head.lower()
    assert json.loads(body)["code"] == "unavailable"
    assert await asyncio.wait_for(node.process.wait(), START_SECONDS) == 0
    assert not node.lines(event="Exception in ASGI application\n")
    writer.close()
    await node.kill()


@pytest.mark.parametrize("variable", ["CHAT_BUS_URL", "CHAT_DATABASE_URL"])
async def test_a_silent_name_server_does_not_delay_the_end(variable: str, service_settings: Settings) -> None:
    assert service_settings.database_url
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")} | {
        "CHAT_DATABASE_URL": service_settings.database_url.get_secret_value(),
        "CHAT_DATA_DIR": str(service_settings.data_dir),
        "CHAT_LOG_LEVEL": "ERROR",
        variable: f"{'redis' if variable == 'CHAT_BUS_URL' else 'postgresql'}://{HOST}/0",
    }
    command = [sys.executable, "-m", "tests.silent_names", "run", "--no-seed", "--port", str(free_port())]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=PIPE)
    awaited = b"Ready" if variable == "CHAT_BUS_URL" else b"looking up"
    assert process.stdout
    async with asyncio.timeout(START_SECONDS):
        while not (line := await process.stdout.readline()).startswith(awaited):
            assert line
    process.terminate()
    assert await asyncio.wait_for(process.wait(), SECONDS / 2) == 0
