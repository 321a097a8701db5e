"""The command line: run experiments, each side in turn, and print the medians."""

import json
import math
import resource
import sys
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from chat_app.cli.process import end_on_signals
from tests.bench import beside as revisions
from tests.bench import disturbed, idle, reading, report, seed, sending
from tests.bench.report import BESIDE, Experiment, Results
from tests.bench.servers import Rig, node_is_missing, rig

EXPERIMENTS = [experiment for module in (sending, idle, reading, disturbed) for experiment in module.experiments()]

# The exit status after a signal.
INTERRUPTED = 130

console = Console(width=110)


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="Such as W1 W5-orm. W5 means all that begin with it.")
    ] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="Runs of each side: 3, or 5 with --beside.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="The measured time of each run, after warming up.")] = 10,
    node: Annotated[bool | None, typer.Option(help="Measure Node's server too; by default not with --beside.")] = None,
    beside: Annotated[str | None, typer.Option(metavar="REVISION", help="Measure this revision in turn.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every run there.")] = None,
) -> None:
    """Measure chat_app beside the Node server that a team would have written, or beside another revision."""
    chosen = _chosen(names or [])
    # For ten thousand connections. The servers inherit the limit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    seed.use_secret()
    with _plain_errors():
        facts = report.surroundings() | ({"beside": revisions.find_commit(beside)} if beside else {})
        report.show_surroundings(console, facts)
        skipped = {"node"} if _is_without_node(node if node is not None else not beside) else set()
        with rig() as built:
            compared = _both(chosen, built, facts["beside"]) if beside else chosen
            results = {each.name: run(built, each, skipped, runs or (5 if beside else 3), seconds) for each in compared}
    if json_file:
        json_file.write_text(json.dumps(_without_nan(_as_json(facts, results)), indent=2))
    if any(outcome.errors for sides in results.values() for outcomes in sides.values() for outcome in outcomes):
        sys.exit("There were errors: these figures are not to be trusted.")


def _both(chosen: list[Experiment], built: Rig, commit: str) -> list[Experiment]:
    other = revisions.check_out(built, commit)
    if revisions.needs_other_packages(other):
        console.print("Warning: its requirements.txt differs from this tree's; the packages installed here serve both.")
    return [pair for experiment in chosen for pair in revisions.pairs(experiment, other)]


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        sys.exit(f"Nothing could be measured: {error}")


def _chosen(names: list[str]) -> list[Experiment]:
    known = {e.name: e.name.partition("-")[0] for e in EXPERIMENTS}
    if unknown := set(names) - {*known, *known.values()}:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(known)}")
    if not names:
        return [e for e in EXPERIMENTS if e.name != "W0"]
    return [e for e in EXPERIMENTS if {e.name, known[e.name]} & set(names)]


def _is_without_node(wanted: bool) -> bool:
    missing = node_is_missing() if wanted else None
    if missing:
        console.print(missing)
    return not wanted or missing is not None


def run(built: Rig, experiment: Experiment, skipped: set[str], runs: int, seconds: float) -> Results:
    """Run the sides in alternating order, so that changes on the machine affect all of them."""
    outcomes: Results = {side: [] for side in experiment.sides if side not in skipped}
    for number in range(runs):
        for side in list(outcomes)[:: -1 if number % 2 else 1]:
            outcome = experiment.sides[side](built, seconds)
            for error in outcome.errors:
                console.print(f"{experiment.name}, {side}: {error}", markup=False)
            outcomes[side].append(outcome)
    rows = report.rows(outcomes)
    console.print(report.table(experiment, rows))
    if BESIDE in rows and (line := report.ratio_line(experiment, rows)):
        console.print(line, highlight=False)
    return outcomes


def _as_json(facts: dict[str, Any], results: dict[str, Results]) -> dict[str, Any]:
    return {
        "surroundings": facts,
        "results": {
            name: {side: [outcome._asdict() for outcome in outcomes] for side, outcomes in sides.items()}
            for name, sides in results.items()
        },
        "ratios": {
            name: {figure: ratio._asdict() for figure, ratio in report.ratios(report.rows(sides)).items()}
            for name, sides in results.items()
        },
    }


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    cli.command()(bench)
    # Signals raise exceptions, so that everything started is ended in order.
    end_on_signals(INTERRUPTED)
    try:
        cli()
    except CancelledError:
        sys.exit(INTERRUPTED)
