"""The code of an earlier version, which a deploy runs beside this one."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.process import ROOT

# Without a release: so many commits ago.
EARLIER = 20


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def earlier_commit() -> str:
    """That of the last release, else one before it. Raises SystemExit without the history of the repository."""
    tag = git("describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^")
    commit = git("rev-parse", "--verify", "--end-of-options", f"{tag or f'HEAD~{EARLIER}'}^{{commit}}")
    if not commit:
        raise SystemExit("The history of the repository is needed: git fetch --unshallow --tags")
    return commit


def earlier_version(folder: Path) -> tuple[str, ...]:
    """What starts the earlier version. Its code is put into this folder, once."""
    if not folder.exists():
        archive = folder.with_suffix(".zip")
        git("archive", f"--output={archive}", earlier_commit())
        shutil.unpack_archive(archive, folder)
    return "env", "-C", str(folder), sys.executable, "-m", "chat_app"
