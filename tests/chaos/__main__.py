"""`make chaos`: run faults against real nodes, and judge what the clients saw; or judge a history again."""

import argparse
import asyncio
import gc
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import SystemRandom

import uvloop

from tests.chaos.checker import judge
from tests.chaos.faults import FAULTS
from tests.chaos.history import read
from tests.chaos.planted import PLANTED
from tests.chaos.report import report
from tests.chaos.run import Plan, run

FIXED_SEED = 1
PLANTED_MINUTES = 0.8


def main() -> None:
    options = _options()
    if options.judge:
        sys.exit(_judge(options.judge))
    if options.planted:
        sys.exit(_run_planted(options))
    seed = SystemRandom().getrandbits(31) if options.seed == "random" else int(options.seed)
    plan = Plan(seed, options.minutes, nodes=options.nodes, clients=options.clients, pace=options.pace)
    plan.burst = options.burst
    if options.faults:
        plan.faults = options.faults
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    sys.stdout.write(f"seed {seed}, {plan.nodes} nodes, {plan.clients} clients, faults {','.join(plan.faults)}\n")
    sys.stdout.flush()
    try:
        path = uvloop.run(_run(plan, folder))
    except asyncio.CancelledError:
        sys.exit(f"Interrupted; the history so far is in {folder}")
    failed = _judge(path)
    if failed:
        sys.stdout.write(f"The history and the logs are kept: make chaos ARGS='--judge {path}'\n")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(failed)


async def _run(plan: Plan, folder: Path) -> Path:
    task = asyncio.current_task()
    assert task
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await run(plan, folder)


def _run_planted(options: argparse.Namespace) -> int:
    """A run for each planted fault; the status is 1 if one is not named."""
    missed = []
    for name in PLANTED if options.planted == "all" else options.planted.split(","):
        began, planted = time.monotonic(), PLANTED[name]
        folder = Path(tempfile.mkdtemp(prefix=f"chaos-{name}-", dir="/tmp"))
        launcher = (sys.executable, "-m", "tests.chaos.planted", name)
        plan = Plan(
            int(options.seed), PLANTED_MINUTES, planted.faults, options.nodes, options.clients, options.pace, launcher
        )
        verdict = judge(read(uvloop.run(_run(plan, folder))))
        named = [found for found in verdict.violations if found.kind in planted.kinds]
        missed += [] if named else [name]
        text = f"{named[0].kind}: {named[0].evidence}" if named else f"NOT SEEN, only {dict(verdict.by_kind)}"
        sys.stdout.write(f"{name}, {time.monotonic() - began:.0f} s, {len(named)} violations, {text}\n")
        sys.stdout.flush()
        if named:
            shutil.rmtree(folder, ignore_errors=True)
    return int(bool(missed))


def _judge(path: Path) -> int:
    # Of millions of objects, hardly any of them garbage.
    gc.disable()
    verdict = judge(read(path))
    sys.stdout.write(f"{report(verdict)}\n")
    return int(verdict.name != "valid")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos ARGS=…", description=__doc__)
    parser.add_argument("--seed", default=str(FIXED_SEED), help="a number, or random; each run prints its own")
    parser.add_argument("--minutes", type=float, default=6.0, help="at least; every fault happens once")
    parser.add_argument("--faults", type=_faults, help=f"some of {','.join(FAULTS)}")
    parser.add_argument("--nodes", type=int, choices=(2, 3), default=3)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--pace", type=float, default=0.4, help="mean seconds between two operations of a client")
    parser.add_argument("--burst", type=int, default=0, help="messages that a client sends at once; 0: one to four")
    parser.add_argument("--judge", type=Path, help="the file of a recorded history, to be judged again")
    parser.add_argument("--planted", help=f"start servers with a fault in them: all, or some of {','.join(PLANTED)}")
    return parser.parse_args()


def _faults(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - FAULTS.keys():
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    main()
