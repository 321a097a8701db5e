"""The command line: run experiments, each side in turn, and tell the medians."""

import json
import math
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tests.bench import disturbed, idle, reading, report, seed, sending
from tests.bench.report import Experiment, Outcome
from tests.bench.servers import House, house, node_is_missing

EXPERIMENTS = [experiment for module in (sending, idle, reading, disturbed) for experiment in module.experiments()]

console = Console(width=110)


def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Such as W1 W5-orm; W5 is all that begin so.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side; the medians are told.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.5, help="What is measured of each run, after warming up.")] = 10,
    node: Annotated[bool, typer.Option(help="Measure Node's server too.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every run there.")] = None,
) -> None:
    """Measure chat_app, beside the Node server that a team would have written."""
    chosen = _chosen(names or [])
    # For ten thousand connections; the servers inherit it.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    seed.use_secret()
    facts = report.surroundings()
    report.show_surroundings(console, facts)
    skipped = {"node"} if _is_without_node(node) else set()
    with house() as built, _plain_errors():
        results = {experiment.name: _run(built, experiment, skipped, runs, seconds) for experiment in chosen}
    if json_file:
        json_file.write_text(json.dumps({"surroundings": facts, "results": _without_nan(results)}, indent=2))
    if any(run["errors"] for sides in results.values() for runs_of_side in sides.values() for run in runs_of_side):
        sys.exit("There were errors: these figures are not to be trusted.")


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


def _run(built: House, experiment: Experiment, skipped: set[str], runs: int, seconds: float) -> dict[str, Any]:
    """One after the other and not all of one first, so that what changes on the machine meets all."""
    outcomes: dict[str, list[Outcome]] = {side: [] for side in experiment.sides if side not in skipped}
    for _ in range(runs):
        for side, done in outcomes.items():
            outcome = experiment.sides[side](built, seconds)
            for error in outcome.errors:
                console.print(f"{experiment.name}, {side}: {error}", markup=False)
            done.append(outcome)
    console.print(
        report.table(experiment, {side: report.medians([o.row for o in done]) for side, done in outcomes.items()})
    )
    return {side: [outcome._asdict() for outcome in done] for side, done in outcomes.items()}


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    cli.command()(bench)
    cli()
