"""The embedded PostgreSQL on a machine without its user."""

import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest

START = """
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from chat_app.cli import embedded

with ThreadPoolExecutor(2) as pool:
    for user in pool.map(embedded._server_user, [Path("/nowhere")] * 2):
        print(user["user"], end=" ", flush=True)
"""
# In a mount namespace with an /etc of its own, so that the machine keeps its users.
SCRIPT = """
mount --bind "$1" /etc
for round in 1 2 3 4 5; do
    userdel embedded_postgres 2>/dev/null
    "$2" -c "$3"
    id --user embedded_postgres
done
"""


@pytest.mark.root
def test_simultaneous_first_starts_use_the_same_user(tmp_path: Path) -> None:
    etc = copytree("/etc", tmp_path / "etc", symlinks=True)
    command = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", etc, sys.executable, START]
    rounds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(rounds) == 5
    assert all(len(set(users.split())) == 1 and len(users.split()) == 3 for users in rounds), rounds
