"""`make volume` in miniature: each part finds nothing in the service, and what is planted in its servers."""

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import orjson
import psutil
import pytest

from chat_app.live.commands import COMMANDS
from tests.chaos import planted as chaos
from tests.chaos.wire import ConnectionEnded
from tests.clients import until
from tests.generator import Generator
from tests.operations import ROUTES
from tests.process import ROOT
from tests.volume.__main__ import PARTS, SEEN
from tests.volume.launch import PLANTED
from tests.volume.malformed import Malformed
from tests.volume.pictures import Odd
from tests.volume.places import misplaced
from tests.volume.requests import Client
from tests.volume.servers import serving
from tests.volume.sharing import surely

# Six starts of servers take minutes.
pytestmark = pytest.mark.system

SMALL = {"removals": 8, "revocations": 8, "passwords": 2, "packets": 1500, "pictures": 12, "requests": 150}


def run_volume(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.volume", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.timeout(1800)
def test_each_part_finds_nothing() -> None:
    done = run_volume(*(f"{name}={count}" for name, count in SMALL.items()))
    assert done.returncode == 0, done.stdout + done.stderr
    for line, (name, count) in zip(done.stdout.splitlines(), SMALL.items(), strict=True):
        assert line.startswith(f"{name}: {count}, 0 violations, ") and "seed 1; " in line


@pytest.mark.timeout(300)
async def test_a_session_that_its_own_user_ended_is_no_violation(data_dir: Path) -> None:
    launcher = (sys.executable, "-m", "tests.volume.launch", "none")
    folder = data_dir / "volume"
    folder.mkdir()
    async with serving(folder, ("a",), launcher) as servers:
        nothing = {"type": "object", "properties": {}}
        client = Client(servers, Random(1), dict.fromkeys(COMMANDS, nothing), [], Counter())
        client.generator = Generator(client.random, {}, [])
        await client.prepare()
        (socket,) = client.devices[1].sockets.values()
        body = orjson.dumps({"new_password": "a long password"})
        answer = await client.devices[0].request(servers.nodes[0], "POST", ROUTES["change_password"].path, body)
        assert answer == (204, b"")
        await until(lambda: not socket.is_open)
        await client.command()
        await client.command()
        assert servers.violations == [] and client.statuses[0] == 0
        for device in client.devices:
            device.close()


@pytest.mark.timeout(300)
def test_a_planted_fault_is_seen() -> None:
    done = run_volume("--planted", "pictures-crash")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "P25 500" in done.stdout


@pytest.mark.parametrize("fault", SEEN.keys() - chaos.PLANTED.keys())
def test_what_is_planted_still_fits_the_service(fault: str) -> None:
    code = f"from tests.volume.launch import PLANTED; PLANTED[{fault!r}]()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_every_part_has_a_fault_that_it_sees() -> None:
    assert {part for part, _, _ in SEEN.values()} == PARTS.keys() == SMALL.keys()
    assert SEEN.keys() <= PLANTED.keys()


@pytest.mark.parametrize("part", ["earthquakes=3", "removals", "removals=0", "removals=many"])
def test_what_is_no_part_is_refused(part: str) -> None:
    refused = run_volume(part)
    assert refused.returncode == 2 and f"{part} is not PART=NUMBER" in refused.stderr


@pytest.mark.timeout(300)
async def test_an_interrupted_run_leaves_no_process_behind() -> None:
    command = (sys.executable, "-m", "tests.volume", "removals=100000")
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started = psutil.Process(process.pid)

    def running() -> list[psutil.Process]:
        found, words = started.children(recursive=True), ""
        for child in found:
            with suppress(psutil.Error):
                words += " ".join(child.cmdline())
        return found if all(name in words for name in ("postgres", "valkey", "volume.launch")) else []

    await until(running, 120)
    left = running()
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert process.returncode == 1 and b"Interrupted" in errors, errors.decode()
    await until(lambda: not any(_lives(child) for child in left))


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def answering(*answers: int | Exception) -> Callable[[], Awaitable[tuple[int, Any]]]:
    left = iter(answers)

    async def ask() -> tuple[int, Any]:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer, "data"

    return ask


@pytest.mark.parametrize("former", [503, ConnectionEnded(), OSError()])
async def test_what_has_to_succeed_is_asked_again_while_its_outcome_is_unknown(former: int | Exception) -> None:
    assert await surely(answering(former, 201)) == "data"
    assert await surely(answering(former, 404), ends=True) == "data"
    with pytest.raises(RuntimeError, match="404"):
        await surely(answering(former, 404))


async def test_what_is_gone_at_the_first_attempt_was_not_ended_by_it() -> None:
    with pytest.raises(RuntimeError, match="404"):
        await surely(answering(404), ends=True)


def row(seq: int, sender: str, event: str | None = None) -> dict[str, Any]:
    kind = {"type": "text", "payload": None}
    if event:
        kind = {"type": "system", "payload": f'{{"event": "{event}", "user_ids": ["{sender}"]}}'}
    return {"chat_id": "chat", "seq": seq, "sender_id": sender, **kind}


def test_a_message_between_a_removal_and_the_next_joining_is_misplaced() -> None:
    rows = [row(1, "anna"), row(2, "anna", "member_removed"), row(3, "boris"), row(4, "anna"), row(5, "anna")]
    rows += [row(6, "anna", "members_added"), row(7, "anna"), row(8, "anna", "member_left"), row(9, "anna")]
    assert [text.split()[2] for text in misplaced(rows)] == ["4", "5", "9"]
    assert misplaced([{**each, "chat_id": each["seq"]} for each in rows]) == []


def test_a_seed_decides_what_is_sent() -> None:
    def produced(seed: int) -> list[bytes]:
        malformed, odd = Malformed(Random(seed)), Odd(Random(seed))
        return [make() for _ in range(20) for make in (malformed.frame, malformed.posted, odd.picture)]

    assert produced(1) == produced(1)
    assert produced(1) != produced(2)


def test_malformed_packets_are_text_that_leaves_a_connection_open() -> None:
    malformed = Malformed(Random(3))
    packets = [malformed.packet() for _ in range(5000)]
    assert all(packet.decode()[:1] in "3456" and packet[:2] != b"41" for packet in packets)
    assert len(set(packets)) > 3000
