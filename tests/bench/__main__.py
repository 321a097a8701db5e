"""The command line: run workloads against our server and Node's in turn, and tell the medians."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tests.bench import report
from tests.bench.servers import House, house, node_is_missing
from tests.bench.workloads import WORKLOADS, Figures, Workload, measure_node, measure_ours

console = Console(soft_wrap=True)


def bench(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(WORKLOADS)}; W2 is both.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each, of which the medians are told.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.5, help="What is measured of each run, after warming up.")] = 10,
    chats: Annotated[int | None, typer.Option(min=1, help="Chats, instead of the workload's number.")] = None,
    node: Annotated[bool, typer.Option(help="Measure Node's server too.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every run there.")] = None,
) -> None:
    """Measure chat_app beside the Node server that a team would have written."""
    chosen = _chosen(names or [])
    facts = report.surroundings()
    report.show_surroundings(console, facts)
    missing = node_is_missing() if node else None
    if missing:
        console.print(missing)
    results: dict[str, Any] = {}
    with house() as built:
        for workload in chosen:
            sized = replace(workload, chats=chats) if chats else workload
            results[workload.name] = _compare(built, sized, runs, seconds, node and not missing)
    if json_file:
        json_file.write_text(json.dumps({"surroundings": facts, "workloads": _without_nan(results)}, indent=2))
    if any(row.get("errors") for sides in results.values() for rows in sides.values() for row in rows):
        sys.exit("There were errors, so the figures mean nothing.")


def _chosen(names: list[str]) -> list[Workload]:
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(WORKLOADS)}")
    return [
        workload
        for workload in WORKLOADS.values()
        if not names or workload.name.split("-")[0] in names or workload.name in names
    ]


def _compare(built: House, workload: Workload, runs: int, seconds: float, with_node: bool) -> dict[str, Any]:
    """One after the other and not all of one first, so that what changes on the machine meets both."""
    sides: dict[str, Any] = {"chat_app": [], **({"node": []} if with_node else {})}
    for _ in range(runs):
        for side, rows in sides.items():
            figures = (measure_node if side == "node" else measure_ours)(built, workload, seconds)
            _tell_errors(side, figures)
            rows.append(report.row(figures))
    ours, other = report.medians(sides["chat_app"]), report.medians(sides["node"]) if with_node else None
    console.print(report.table(f"{workload.name}: {workload.title}", ours, other))
    return sides


def _tell_errors(side: str, figures: Figures) -> None:
    for text in figures.counts.texts:
        console.print(f"{side}: {text}", markup=False)
    if figures.crashes:
        console.print(f"{side}: {figures.crashes} errors in its log")


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    typer.run(bench)
