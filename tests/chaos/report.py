"""What a run comes to, as a table: the verdict, and the figures behind it."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from math import inf

from tests.chaos.checker import Verdict
from tests.chaos.facts import Operation
from tests.chaos.index import History
from tests.chaos.rules_delivery import deliveries
from tests.chaos.rules_messages import SENDING

MOST_SHOWN = 4
# A resync that comes later than that has another cause.
SOON_SECONDS = 10.0


def report(verdict: Verdict) -> str:
    """For people, on a terminal or in a README."""
    return "\n".join([*_head(verdict), "", *_table(list(_figures(verdict.history))), "", *_operations(verdict.history)])


def _head(verdict: Verdict) -> Iterator[str]:
    yield f"{verdict.name}: seed {verdict.history.run.get('seed')}"
    for kind, number in verdict.by_kind.most_common():
        yield f"  {number:4} {kind}"
        for violation in [found for found in verdict.violations if found.kind == kind][:MOST_SHOWN]:
            yield f"       {violation.promise} {violation.evidence}"
    for reason in verdict.unknown[:20]:
        yield f"  unknown: {reason}"


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _figures(history: History) -> Iterator[tuple[str, str]]:
    acked = [op for op in history.named(*SENDING, outcome="ok") if op.status == 201]
    for via in ("socket", "http"):
        took = [1000 * (op.returned - op.t) for op in acked if op.via == via]
        yield f"messages acknowledged over {via}", f"{len(took):,}"
        yield "  p50 / p99 of the answer, ms", f"{percentile(took, 0.5):.0f} / {percentile(took, 0.99):.0f}"
    times = [delivery.seconds for delivery in deliveries(history) if delivery.seconds < inf]
    yield "deliveries to members elsewhere", f"{len(times):,}"
    yield (
        "  p50 / p99 / longest deafness, s",
        f"{percentile(times, 0.5):.2f} / {percentile(times, 0.99):.2f} / {max(times, default=0):.1f}",
    )
    yield from _bus_figures(history, acked)
    yield "connections", f"{len(history.connections):,}"
    yield "chats read at the end", f"{len(history.chats):,}, {sum(map(len, history.finals.values())):,} times"
    yield "rows compared", f"{sum(len(final.rows) for all in history.finals.values() for final in all):,}"
    by_fault: dict[str, list[float]] = defaultdict(list)
    for fault in history.faults:
        by_fault[fault["name"]].append(fault["until"] - fault["t"])
    recoveries = history.figures.get("recoveries", {})
    for name, seconds in sorted(by_fault.items()):
        back = max(recoveries.get(name, [0.0]))
        yield f"fault {name}", f"{len(seconds)} times, {sum(seconds):.0f} s, back after {back:.1f} s"


def _bus_figures(history: History, acked: Sequence[Operation]) -> Iterator[tuple[str, str]]:
    """What faults of the bus cost: answers while it is frozen, and the time until those who missed something know."""
    faults = [fault for fault in history.faults if fault["name"].startswith("bus-")]
    frozen = [(fault["t"], fault["until"]) for fault in faults if fault["name"] == "bus-freeze"]
    took = [1000 * (op.returned - op.t) for op in acked if any(since <= op.t < until for since, until in frozen)]
    if took:
        yield "  p50 / p99 while the bus is frozen, ms", f"{percentile(took, 0.5):.0f} / {percentile(took, 0.99):.0f}"
    for fault in faults:
        waits = sorted(_warnings(history, fault["until"]))
        if waits:
            text = f"{len(waits)} connections, p50 {percentile(waits, 0.5):.1f} s, the last after {waits[-1]:.1f} s"
            yield f"resync after {fault['name']} of {fault['t']:.0f} s", text


def _warnings(history: History, since: float) -> Iterator[float]:
    """Of each connection that is open at a time, and warned soon after it: the seconds until then."""
    for conn in history.connections.values():
        if conn.opened <= since < conn.closed:
            warned = (t - since for t, name, _ in conn.events if name == "resync_required" and t >= since)
            wait = next(warned, inf)
            if wait <= SOON_SECONDS:
                yield wait


def _operations(history: History) -> list[str]:
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for op in history.operations.values():
        outcomes[op.name][op.outcome] += 1
    rows = [
        (name, f"{found['ok']:7,} {found['failed']:7,} {found['unknown']:7,}")
        for name, found in sorted(outcomes.items())
    ]
    return _table([("operation", "     ok  failed unknown"), *rows])


def _table(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {value}" for name, value in rows]
