"""`make volume`: races, malformed packets, odd pictures and generated requests in any number, against real servers."""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random, SystemRandom
from typing import NamedTuple

import uvloop

from tests.volume import packets, passwords, pictures, removals, requests, revocations
from tests.volume.servers import Servers, serving

FIXED_SEED = 1
SHOWN_VIOLATIONS, SHOWN_CHARACTERS = 5, 500
# Packets by polling need a single node.
ONE, THREE = ("a",), ("a", "b", "c")


class Part(NamedTuple):
    """`number`: how many if nothing is asked for; all parts together take about two minutes."""

    run: Callable[[Servers, int, Random], Awaitable[str]]
    number: int
    nodes: tuple[str, ...]


PARTS = {
    "removals": Part(removals.run, 200, THREE),
    "revocations": Part(revocations.run, 200, THREE),
    "passwords": Part(passwords.run, 20, THREE),
    "packets": Part(packets.run, 20_000, ONE),
    "pictures": Part(pictures.run, 200, ONE),
    "requests": Part(requests.run, 2000, ONE),
}


# What reports a planted fault: the part, how many it takes, and the beginning of a violation.
SEEN = {
    "no-membership-lock": ("removals", 40, "P17 message"),
    "rooms": ("removals", 8, "P16 a removed member received"),
    "ignored-revocation": ("revocations", 4, "P19 a connection was open"),
    "session-outlives-password": ("passwords", 12, "P19 a session opened with the old password lives"),
    "packets-crash": ("packets", 400, "node a logged"),
    "tasks-left": ("packets", 400, "left behind: tasks"),
    "pictures-crash": ("pictures", 30, "P25 500"),
    "requests-crash": ("requests", 450, "P25 500"),
}


def main() -> None:
    options = _options()
    seed = SystemRandom().getrandbits(31) if options.seed == "random" else int(options.seed)
    try:
        sys.exit(_run_planted(seed, options.planted) if options.planted else _run_parts(seed, dict(options.parts)))
    except asyncio.CancelledError:
        sys.exit("Interrupted")


def _run_parts(seed: int, chosen: dict[str, int]) -> bool:
    """Whether one of them found something."""
    numbers = chosen or {name: part.number for name, part in PARTS.items()}
    found = [uvloop.run(_run(name, number, seed)) for name, number in numbers.items()]
    return any(found)


def _run_planted(seed: int, planted: str) -> bool:
    """Whether one of the faults was not seen."""
    missed = []
    for fault in SEEN if planted == "all" else [planted]:
        name, number, text = SEEN[fault]
        found = uvloop.run(_run(name, number, seed, fault))
        missed += [] if any(each.startswith(text) for each in found) else [fault]
    sys.stdout.write(f"NOT SEEN: {', '.join(missed)}\n" if missed else "")
    return bool(missed)


async def _run(name: str, count: int, seed: int, planted: str = "none") -> list[str]:
    """What one part found. Its line is printed."""
    task = asyncio.current_task()
    assert task
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    folder = Path(tempfile.mkdtemp(prefix=f"volume-{name}-", dir="/tmp"))
    launcher = (sys.executable, "-m", "tests.volume.launch", planted)
    began = time.monotonic()
    try:
        async with serving(folder, PARTS[name].nodes, launcher) as servers:
            figures = await PARTS[name].run(servers, count, Random(f"{seed} {name}"))
    except asyncio.CancelledError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    seconds = time.monotonic() - began
    found = servers.violations
    what = name if planted == "none" else f"{name} with {planted}"
    sys.stdout.write(f"{what}: {count}, {len(found)} violations, {seconds:.0f} s, seed {seed}; {figures}\n")
    for text in found[:SHOWN_VIOLATIONS]:
        sys.stdout.write(f"  {text[:SHOWN_CHARACTERS]}\n")
    if found and planted == "none":
        sys.stdout.write(f"  The logs are kept: {folder}\n")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make volume ARGS=…", description=__doc__)
    usual = " ".join(f"{name}={part.number}" for name, part in PARTS.items())
    parser.add_argument("parts", nargs="*", type=_part, metavar="PART=NUMBER", help=f"if none is named: {usual}")
    parser.add_argument("--seed", default=str(FIXED_SEED), help="a number, or random; each run prints its own")
    parser.add_argument("--planted", choices=["all", *SEEN], help="show that faults in the servers are seen")
    return parser.parse_args()


def _part(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in PARTS or not number.isdigit() or not int(number):
        raise argparse.ArgumentTypeError(f"{text} is not PART=NUMBER; the parts: {', '.join(PARTS)}")
    return name, int(number)


if __name__ == "__main__":
    main()
