"""Whether messages are late while others upload photos or log in."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryFile

from chat_app.auth import hash_password
from tests.bench import children, seed
from tests.bench.report import Experiment, Outcome
from tests.bench.seed import Person
from tests.bench.sending import Shape, measure, ours_load
from tests.bench.servers import ROOT, Rig, Server

MODEST = Shape(10, 20, rate=20)
PASSWORD = "a password of the bench"

# The arguments of a disturbance, for users who do nothing else, with these phones.
Arguments = Callable[[list[Person], list[str]], list[str]]


def experiments() -> list[Experiment]:
    beside = {
        "W8: 20 messages a second in groups of 20, while photos of 4 MB become avatars": _uploads,
        "W9: 20 messages a second in groups of 20, while 20 people a second log in": _logins,
    }
    return [
        Experiment(*title.split(": "), {"undisturbed": partial(_run, None), "disturbed": partial(_run, arguments)})
        for title, arguments in beside.items()
    ]


def _uploads(people: list[Person], phones: list[str]) -> list[str]:
    return ["upload", people[0].token]


def _logins(people: list[Person], phones: list[str]) -> list[str]:
    return ["login", PASSWORD, *phones]


def _run(arguments: Arguments | None, rig: Rig, seconds: float) -> Outcome:
    chats, others = seed.make_chats(MODEST.chats, MODEST.members), seed.make_people(100)
    with rig.database() as database:
        seed.write(database, seed.members_of(chats), chats)
        phones = seed.write(database, others, [], asyncio.run(hash_password(PASSWORD)))
        during = partial(_disturbance, arguments(others, phones)) if arguments else None
        return measure(rig.ours(database), ours_load(chats, MODEST), seconds, during)


@contextmanager
def _disturbance(arguments: list[str], server: Server) -> Iterator[Outcome]:
    """A disturbance that begins before and ends after the measurement. Its figures are complete at its end."""
    kind, *others = arguments
    row: dict[str, float] = {}
    errors: list[str] = []
    with TemporaryFile() as output:
        command = [sys.executable, "-m", "tests.bench.disturb", kind, f"http://127.0.0.1:{server.port}", *others]
        started, process = time.monotonic(), children.start(command, cwd=ROOT, stdout=output)
        try:
            yield Outcome(row, errors)
        finally:
            if process.poll() is not None:
                errors.append(f"what disturbs ended with {process.returncode}")
            process.terminate()
            process.wait()
        output.seek(0)
        statuses = [line.decode() for line in output.read().splitlines()]
    row["disturbances answered/s"] = len(statuses) / (time.monotonic() - started)
    if not statuses or {"200"} != set(statuses):
        errors.append(f"{sum(status != '200' for status in statuses)} of {len(statuses)} {kind}s failed")
