"""Another revision of the service beside the working tree, with its code in the bench's temporary folder."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.bench.report import BESIDE, HERE, Experiment, Outcome, Run
from tests.bench.servers import ROOT, Rig

NOT_OURS = ("node", "ORM")


def find_commit(revision: str) -> str:
    """The full id of a revision's commit. Raises RuntimeError."""
    command = ["git", "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RuntimeError("--beside needs git") from None
    if done.returncode:
        raise RuntimeError(f"git finds no revision {revision!r}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


def check_out(built: Rig, commit: str) -> Rig:
    """The commit's code on the same PostgreSQL. It is extracted from an archive, because git would keep a worktree."""
    code, archive = built.folder / "code", built.folder / "code.zip"
    subprocess.run(["git", "archive", f"--output={archive}", commit], cwd=ROOT, check=True)
    shutil.unpack_archive(archive, code)
    return Rig(built.folder, built.url, code, BESIDE)


def needs_other_packages(other: Rig) -> bool:
    """Whether its requirements differ from those of the working tree, with whose packages it runs."""
    return _requirements(other.root) != _requirements(ROOT)


def _requirements(root: Path) -> str:
    file = root / "requirements.txt"
    return file.read_text() if file.exists() else ""


def pairs(experiment: Experiment, other: Rig) -> Iterator[Experiment]:
    """An experiment for each side of our own service: this side here and of the other revision."""
    ours = {side: run for side, run in experiment.sides.items() if side not in NOT_OURS}
    node = {side: run for side, run in experiment.sides.items() if side == "node"}
    for side, run in ours.items():
        name = f"{experiment.name} {side}" if len(ours) > 1 else experiment.name
        yield Experiment(name, experiment.title, {HERE: run, BESIDE: partial(_elsewhere, run, other), **node})


def _elsewhere(run: Run, other: Rig, _: Rig, seconds: float) -> Outcome:
    return run(other, seconds)
