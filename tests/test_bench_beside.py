"""The bench with two revisions; however it ends, it leaves nothing behind."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import psutil
import pytest

from tests.bench import servers
from tests.bench.__main__ import run
from tests.bench.report import Experiment, Outcome, ratios, rows
from tests.bench.servers import Rig
from tests.process import ROOT

pytestmark = pytest.mark.timeout(180)

PATIENCE_SECONDS = 60
RATE = "messages per CPU-s of the server"
COMMIT = ("-c", "user.name=Anna", "-c", "user.email=anna@example.com", "-c", "commit.gpgsign=false", "commit", "-q")


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two commits. The last one is this tree. The one before, tagged `broken`, does not run."""
    root = tmp_path_factory.mktemp("repository")
    for folder in ("chat_app", "alembic", "tests/bench"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    for file in ("alembic.ini", "requirements.txt", "tests/__init__.py"):
        shutil.copy(ROOT / file, root / file)
    main = root / "chat_app" / "__main__.py"
    code = main.read_text()
    git(root, "init", "--quiet")
    for message, text in {"broken": "raise SystemExit('the broken revision')", "whole": code}.items():
        main.write_text(text)
        git(root, "add", ".")
        git(root, *COMMIT, "--message", message)
        git(root, "tag", message)
    return root


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for the temporary files of the bench. PostgreSQL's user may not enter pytest's own."""
    with TemporaryDirectory(prefix="chat-") as folder:
        yield Path(folder)


async def bench(root: Path, temporary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the bench to its end and check that it leaves nothing behind."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.bench", *arguments],
        cwd=root,
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert files_in(temporary) == []
    return done


def files_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def test_the_bench_measures_two_revisions(repository: Path, tmp_path: Path, temporary: Path) -> None:
    figures, requirements = tmp_path / "figures.json", repository / "requirements.txt"
    arguments = ("W0", "--beside", "HEAD", "--runs", "1", "--seconds", "1", "--json", str(figures))
    requirements.write_text(f"{requirements.read_text()}\n# changed since")
    done = await bench(repository, temporary, *arguments)
    git(repository, "restore", "requirements.txt")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^W0 here:beside \d+\.\d+ \(\d+\.\d+–\d+\.\d+\) {RATE}$", done.stdout, re.MULTILINE)
    assert "Warning: its requirements.txt differs" in done.stdout
    found = json.loads(figures.read_text())
    assert found["surroundings"]["beside"] == git(repository, "rev-parse", "HEAD").strip()
    sides = found["results"]["W0"]
    assert list(sides) == ["here", "beside"]
    for (outcome,) in sides.values():
        row = outcome["row"]
        assert outcome["errors"] == [] and row["messages/s"] > 0
        assert 0 < row["messages per CPU-s, database included"] < row[RATE]
        assert {"messages per CPU-s of its user time", "messages per CPU-s of its kernel time"} < row.keys()
    here, beside = (outcome["row"][RATE] for (outcome,) in sides.values())
    assert found["ratios"]["W0"][RATE]["median"] == pytest.approx(here / beside)
    assert git(repository, "status", "--porcelain", "--untracked-files=no") == ""
    assert len(git(repository, "worktree", "list").splitlines()) == 1


async def test_the_other_revision_runs_its_own_code(repository: Path, temporary: Path) -> None:
    done = await bench(repository, temporary, "W0", "--beside", "broken", "--runs", "1", "--seconds", "0.5")
    assert done.returncode == 1
    assert done.stderr == "Nothing could be measured: the migrations of beside failed:\nthe broken revision\n\n"


async def test_each_revision_has_its_own_tables(tmp_path: Path) -> None:
    for folder in ("chat_app", "alembic"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    first, *later = sorted((tmp_path / "alembic" / "versions").glob("0*.py"))
    for file in later:
        file.unlink()

    async def revision(url: str) -> Any:
        connection = await asyncpg.connect(url)
        found = await connection.fetchval("SELECT version_num FROM alembic_version")
        await connection.close()
        return found

    def revisions() -> list[Any]:
        with servers.rig() as here:
            both = (here, Rig(here.folder, here.url, tmp_path, "beside"))
            return [asyncio.run(revision(rig.make_database())) for rig in both]

    assert later
    assert await asyncio.to_thread(revisions) == [later[-1].name[:4], first.name[:4]]


@pytest.mark.parametrize("revision", ["nonsense", "--help"])
async def test_an_unknown_revision_is_one_line(repository: Path, temporary: Path, revision: str) -> None:
    done = await bench(repository, temporary, "W0", f"--beside={revision}")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [
        f"Nothing could be measured: git finds no revision '{revision}': fatal: Needed a single revision"
    ]


def test_runs_alternate_and_are_compared_in_pairs() -> None:
    order: list[str] = []

    def side(name: str, *figures: float) -> Callable[[Rig, float], Outcome]:
        left = iter(figures)

        def measure(_: Rig, seconds: float) -> Outcome:
            order.append(name)
            return Outcome({RATE: next(left), "ack p50, ms": 1.0, "server, cores": 1.0}, [])

        return measure

    sides = {"here": side("here", 100, 300, 200), "beside": side("beside", 100, 100, 400)}
    results = run(None, Experiment("W0", "", sides), set(), 3, 1)  # type: ignore[arg-type]
    assert order == ["here", "beside", "beside", "here", "here", "beside"]
    # The ratio of the medians would be 2.
    assert ratios(rows(results)) == {RATE: (1.0, 0.5, 3.0), "ack p50, ms": (1.0, 1.0, 1.0)}


def command_of(process: psutil.Process) -> list[str]:
    """The command line of a process, empty once it has ended, also for a zombie."""
    try:
        return process.cmdline() if process.is_running() and process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.NoSuchProcess:
        return []


async def wait_until(is_so: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "arguments"), [(SIGINT, ["--beside", "HEAD"]), (SIGTERM, ["--no-node"]), (SIGKILL, ["--no-node"])]
)
async def test_the_bench_leaves_nothing_behind(
    repository: Path, tmp_path: Path, temporary: Path, number: Signals, arguments: list[str]
) -> None:
    command = [sys.executable, "-m", "tests.bench", "W0", "--seconds", "60", *arguments]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with (output := tmp_path / "output").open("wb") as file:
        running = await asyncio.create_subprocess_exec(
            *command, cwd=repository, env=environment, stdout=subprocess.DEVNULL, stderr=file
        )
    started: dict[int, psutil.Process] = {}

    def commands() -> list[list[str]]:
        return [command for process in started.values() if (command := command_of(process))]

    def serves() -> bool:
        with suppress(psutil.NoSuchProcess):
            started.update({child.pid: child for child in psutil.Process(running.pid).children(recursive=True)})
        assert running.returncode is None, output.read_text()
        return any(command[-2:] == ["chat_app", "run"] for command in commands())

    try:
        await wait_until(serves, "no server was started")
        assert any(command[0].endswith("postgres") for command in commands())
        running.send_signal(number)
        await running.wait()
        await wait_until(lambda: not commands() and not files_in(temporary), "something is left behind")
    finally:
        for process in started.values():
            if command_of(process):
                process.kill()
    assert running.returncode == (-SIGKILL if number == SIGKILL else 130)
    assert output.read_text() == ""
