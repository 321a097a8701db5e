"""The bench measures, and reports errors."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.bench import servers
from tests.bench.generator import Generator
from tests.bench.load import SLOT, Client, Counts, Load
from tests.bench.usage import cpu
from tests.clients import Person
from tests.process import ROOT
from tests.service import MakePerson, Service

READY = b'42["ready"'


@pytest.mark.timeout(180)
async def test_the_bench_measures_our_own_server(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = ["-m", "tests.bench", "W0", "--runs", "1", "--seconds", "1", "--no-node", "--json", str(figures)]
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads(figures.read_text())["results"]["W0"]["chat_app"]
    row = run["row"]
    assert run["errors"] == []
    assert row["messages/s"] > 0 and row["server, cores"] > 0 and row["database, cores"] > 0 and row["memory, MB"] > 0
    assert 0 < row["ack p50, ms"] <= row["ack p99, ms"] and 0 < row["delivery p50, ms"] <= row["delivery p99, ms"]


BURN = """
import os, subprocess, sys, threading, time
def burn(do=lambda: sum(range(10_000))):
    ends = time.thread_time() + 0.2
    while time.thread_time() < ends: do()
if sys.argv[1:]:
    sys.exit(burn())
ended = threading.Thread(target=burn)
ended.start()
ended.join()
subprocess.run([sys.executable, sys.argv[0], "child"], check=True)
zero = open("/dev/zero", "rb", buffering=0)
burn()
burn(lambda: zero.read(2**20))
children = os.times()
print(time.process_time() + children.children_user + children.children_system, flush=True)
sys.stdin.read()
"""


async def test_cpu_time_has_all_threads_and_children(tmp_path: Path) -> None:
    file = tmp_path / "burn.py"
    file.write_text(BURN)
    burning = await asyncio.create_subprocess_exec(sys.executable, file, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert burning.stdin and burning.stdout
    own = float(await burning.stdout.readline())
    measured = cpu(burning.pid)
    burning.stdin.close()
    await burning.wait()
    assert own > 0.8
    assert measured.total == pytest.approx(own, abs=0.01)
    assert measured.user > 0.3 and measured.kernel > 0.1
    assert measured.user + measured.kernel == pytest.approx(own, abs=0.05)


async def test_node_needs_npm_only_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node").symlink_to("/bin/true")
    shutil.copy(servers.PEER / "package-lock.json", tmp_path)
    monkeypatch.setattr(servers, "PEER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = servers.node_is_missing()
    assert missing and "there is no npm here" in missing
    locked = json.loads((tmp_path / "package-lock.json").read_text())
    del locked["packages"][""]
    installed = tmp_path / "node_modules" / ".package-lock.json"
    installed.parent.mkdir()
    installed.write_text(json.dumps(locked))
    assert servers.node_is_missing() is None
    locked["packages"]["node_modules/pg"]["version"] = "0.0.1"
    installed.write_text(json.dumps(locked))
    assert servers.node_is_missing()


def client(person: Person, chat_id: str, *, sends: bool = False, others: int = 1) -> Client:
    """A client with the chat active."""
    command = {"chat_id": chat_id, "client_id": SLOT.decode(), "type": "text", "text": "hello"}
    auth = {"token": person.token, "active_chat_id": chat_id}
    return Client(b"40" + orjson.dumps(auth), orjson.dumps(["send_message", command]), sends=sends, others=others)


async def run_load(port: int, load: Load) -> Counts:
    """Run this load for half a second."""

    def run() -> Counts:
        generator = Generator(port, load, patience=1)
        try:
            generator.connect()
            return generator.run(0, 0.5)[0]
        finally:
            generator.close()

    return await asyncio.to_thread(run)


@pytest.fixture
def port(service: Service) -> int:
    return int(service.base.rpartition(":")[2])


@pytest.fixture
async def pair(make_person: MakePerson) -> tuple[Person, Person, str]:
    anna, boris = await make_person("Anna"), await make_person("Boris")
    opened = await anna.http.post("/api/v1/chats/private", json={"user_id": boris.id})
    return anna, boris, opened.json()["id"]


async def test_each_message_and_delivery_is_counted_once(port: int, pair: tuple[Person, Person, str]) -> None:
    anna, boris, chat_id = pair
    counts = await run_load(port, Load([client(anna, chat_id, sends=True), client(boris, chat_id)], READY))
    assert counts.texts == []
    newest = (await anna.http.get(f"/api/v1/chats/{chat_id}")).json()["message_count"]
    assert 0 < counts.acked <= newest and abs(counts.acked - counts.delivered) <= 1
    assert len(counts.ack_ms) == counts.acked and len(counts.delivery_ms) == counts.delivered


async def test_deliveries_without_an_active_chat_are_counted_by_the_list(
    port: int, pair: tuple[Person, Person, str]
) -> None:
    anna, boris, chat_id = pair
    silent = [client(person, chat_id, sends=person is anna) for person in (anna, boris)]
    for one in silent:
        one.connect = one.connect.replace(chat_id.encode(), str(uuid4()).encode())
    counts = await run_load(port, Load(silent, READY, counts_by_list=True))
    assert counts.texts == []
    assert counts.acked > 0 and abs(counts.acked - counts.delivered) <= 1


async def test_a_refused_message_is_an_error(port: int, pair: tuple[Person, Person, str]) -> None:
    anna, _, _ = pair
    counts = await run_load(port, Load([client(anna, str(uuid4()), sends=True)], READY))
    assert counts.errors > 0 and counts.acked == 0
    assert "chat_not_found" in counts.texts[0]


async def test_a_missing_delivery_is_an_error(port: int, pair: tuple[Person, Person, str]) -> None:
    """Boris is not connected, though one receiver is expected."""
    anna, _, chat_id = pair
    counts = await run_load(port, Load([client(anna, chat_id, sends=True, others=1)], READY))
    assert counts.acked > 0 and counts.errors >= counts.acked
    assert "deliveries instead of" in counts.texts[0]


async def test_a_missing_answer_is_an_error() -> None:
    async def answer_nothing(socket: ServerConnection) -> None:
        await socket.send("0{}")
        await socket.recv()
        await socket.send("40{}")
        await socket.wait_closed()

    async with serve(answer_nothing, "127.0.0.1", 0, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        counts = await run_load(port, Load([Client(b"40{}", b'["send_message"]', sends=True)], b"40{"))
    assert counts.acked == 0 and counts.errors == 1
    assert counts.texts == ["1 messages were not answered"]
