"""Starts the service in a copy of this folder, as one who has just cloned it does: `make test-start`.

Uses the standard library only, since nothing is installed yet. Prints the seconds until the service is ready.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import smoke

ROOT = Path(__file__).resolve().parent.parent
# The first four are of an outer make. The last one would make every start as slow as the first.
OUTER = ("ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONDONTWRITEBYTECODE")
INSTALL_SECONDS = 600
END_SECONDS = 30


class Copy:
    """The files of this folder that git knows or would add, with a port of their own."""

    def __init__(self, folder: Path, caches: Path | None) -> None:
        self.folder, self.printed, self.log = folder / "chat", folder / "printed", folder / "errors"
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.check_output(listing, cwd=ROOT)
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).exists():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.folder / name)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}/"
        ours = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_") and name not in OUTER}
        environment = ours | {"CHAT_PORT": str(port), "CHAT_LOG_LEVEL": "ERROR"}
        if caches:
            environment |= {"UV_CACHE_DIR": str(caches / "uv"), "PIP_CACHE_DIR": str(caches / "pip")}
        self._context: dict[str, Any] = {"cwd": self.folder, "env": environment}

    @contextmanager
    def running(self) -> Iterator[str]:
        """`make run` until it is ready, and its end by Ctrl-C. Yields what it printed."""
        with self.printed.open("w") as printed, self.log.open("w") as errors:
            streams = {"stdout": printed, "stderr": errors}
            make = subprocess.Popen(["make", "run"], start_new_session=True, **self._context, **streams)
            try:
                self._wait_until_ready(make)
                assert self.log.read_text() == "", self.log.read_text()
                yield self.printed.read_text()
            finally:
                os.killpg(make.pid, signal.SIGINT)
                make.wait(END_SECONDS)

    def _wait_until_ready(self, make: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + INSTALL_SECONDS
        while not smoke.is_ready(self.address):
            assert make.poll() is None, f"make run ended: {self.log.read_text()}"
            assert time.monotonic() < deadline, "make run does not get ready"
            time.sleep(0.05)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """An operator's command."""
        python = self.folder / ".venv/bin/python"
        return subprocess.run([python, "-m", "chat_app", *words], capture_output=True, text=True, **self._context)


def check_commands(copy: Copy) -> None:
    """The commands of an operator use the database of the running server."""
    for words, last in ((("check",), "media"), (("verify",), "Violations: 0"), (("sweep",), "Found: 0")):
        done = copy.command(*words)
        assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith(last), done
    smoke.Person(copy.address, smoke.ANNA)
    ended = copy.command("revoke-sessions", smoke.ANNA).stdout
    # One of this function, one of the smoke test.
    assert ended == "Sessions ended: 2\n", ended


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="chat-start-") as name:
        folder = Path(name)
        copy = Copy(folder, folder if "--cold" in sys.argv else None)
        begun = time.monotonic()
        with copy.running() as printed:
            first = time.monotonic() - begun
            progress, *rest = printed.splitlines()
            assert progress.startswith("Installing into .venv") and rest[0].startswith("  API"), printed
            smoke.main(copy.address)
            check_commands(copy)
        done = copy.command("check")
        assert done.returncode == 1 and "no server runs on" in done.stderr, done
        begun = time.monotonic()
        with copy.running():
            second = time.monotonic() - begun
        sys.stdout.write(f"Ready after {first:.1f} s, and when it was started again after {second:.1f} s\n")


if __name__ == "__main__":
    main()
