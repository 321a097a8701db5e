"""The metrics of this process. They are defined here and observed where they happen. No label holds client input.

Workers keep their values in files of the folder `PROMETHEUS_MULTIPROC_DIR`, so that each process serves those of all.
There a gauge can't be a function. So a task of `main` sets, in every process, what no event changes.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from itertools import product
from multiprocessing import current_process
from typing import Any

from prometheus_client import (
    PROCESS_COLLECTOR,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_fastapi_instrumentator import metrics as requests

from chat_app.errors import ChatError

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# Else each series had a second one, with the time when it began.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library is not typed
if FOLDER in os.environ:
    # Not by its process id: the worker that replaces another goes on with its counters, and no file is left behind.
    name_files: Any = values.MultiProcessValue
    values.ValueClass = name_files(cache(lambda: current_process().name))


# Those of several workers add up.
_sum = partial(Gauge, multiprocess_mode="livesum")
_seconds = partial(Histogram, buckets=SECONDS)


def _counter(name: str, text: str, **labels: str) -> Counter:
    """A counter whose series begin at 0: `increase()` does not see the first event of one that begins at 1.

    `labels`: their values, separated by spaces.
    """
    counter = Counter(name, text, list(labels))
    for label_values in product(*map(str.split, labels.values())):
        counter.labels(*label_values)
    return counter


# To look up its labels takes longer than to observe, so each pair is looked up once.
command_seconds = cache(
    _seconds("chat_command_seconds", "Time from the arrival of a command to its answer.", ["command", "code"]).labels
)
commit_batch = Histogram("chat_commit_messages", "Messages in a commit.", buckets=(1, 2, 5, 10, 20, 50, 100, 200))
delivery = _seconds("chat_delivery_seconds", "Time from a commit to the writing of its events.")
delivered = Counter("chat_deliveries", "Connections that got the events of a commit, counted once for each commit.")
connections = _sum("chat_connections", "Open connections.")
cut = _counter("chat_connections_cut", "Connections that the server closed.", reason="slow silent flood malformed")
resyncs = _counter(
    "chat_resyncs", "Connections asked to resync.", reason="undelivered overtaken not_understood missed bus_lost"
)
logins = _counter(
    "chat_logins", "Logins and their outcome.", by="password code refresh connect", code="ok bad_credentials bad_code"
)
rate_limited = Counter("chat_rate_limited", "Requests and commands that a rate limit refused.", ["action", "by"])
sms = _counter("chat_sms", "Codes that the gateway accepted, or that were given up.", outcome="sent failed")
crashes = _counter("chat_crashes", "Unexpected errors, each with a `crashed` line.", source="request background")
build = Gauge("chat_build_info", "1, of a version and revision.", ["version", "revision"], multiprocess_mode="livemax")
loop_lag = _seconds("chat_event_loop_lag_seconds", "How late the event loop does what is due.")
bus_up = Gauge("chat_bus_up", "1 if the bus is connected, and always without a bus.", multiprocess_mode="livemin")
bus_waiting = _sum("chat_bus_waiting", "Messages to other nodes that wait for the bus.")
bus_dropped = _counter("chat_bus_dropped", "Messages to other nodes that were not published.", reason="down full")
bus_missed = Counter("chat_bus_missed", "Messages of other nodes that never arrived: the gaps in their numbers.")
bus_delay = _seconds("chat_bus_delay_seconds", "Time from the commit on another node to the delivery on this one.")
database_unavailable = Counter("chat_database_unavailable", "Transactions refused without a database.")
database_connections = _sum("chat_database_connections", "Open connections to the database by their use.", ["use"])
pool_size = _sum("chat_database_pool_size", "Most connections for changes, and as many for reads.")
pool_waiting = _sum("chat_database_pool_waiting", "Transactions and reads that wait for a connection.", ["pool"])
storage_failures = Counter("chat_storage_failures", "Failed operations of the file storage.")
media_jobs = _sum("chat_media_jobs", "Pictures that are read, or wait for it.")
media_failures = _counter("chat_media_failures", "Pictures that were not read.", reason="crash timeout full")

# A process may have several applications. The library counts requests once for each process.
count_request: Any = requests.default()

bus_up.set(1)


@asynccontextmanager
async def count_login(by: str) -> AsyncIterator[None]:
    """Count the outcome of the login in the body."""
    try:
        yield
    except ChatError as error:
        logins.labels(by, error.code).inc()
        raise
    logins.labels(by, "ok").inc()


def sample_process() -> None:
    """In a worker, set what the library otherwise reads of its own process at a scrape."""
    for metric in PROCESS_COLLECTOR.collect() if FOLDER in os.environ else ():
        _of_process(metric.samples[0].name, metric.documentation).set(metric.samples[0].value)


_of_process = cache(partial(Gauge, registry=None, multiprocess_mode="liveall"))


def registry() -> CollectorRegistry:
    """What a scrape gets: the metrics of this process, or of all workers."""
    if FOLDER not in os.environ:
        return REGISTRY
    of_workers = CollectorRegistry(support_collectors_without_names=True)
    MultiProcessCollector(of_workers)  # type: ignore[no-untyped-call]  # the library is not typed here
    return of_workers
