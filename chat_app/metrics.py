"""The metrics of this process. They are defined here and observed where they happen. No label holds client input."""

from functools import cache
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from prometheus_fastapi_instrumentator import metrics as requests

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_commands = Histogram(
    "chat_command_seconds", "Time from the arrival of a command to its answer.", ["command", "code"], buckets=SECONDS
)
commit_batch = Histogram("chat_commit_messages", "Messages in a commit.", buckets=(1, 2, 5, 10, 20, 50, 100, 200))
delivery = Histogram("chat_delivery_seconds", "Time from a commit to the writing of its events.", buckets=SECONDS)
delivered = Counter("chat_deliveries", "Connections that got the events of a commit, counted once for each commit.")
connections = Gauge("chat_connections", "Open connections of this process.")
cut = Counter("chat_connections_cut", "Connections that the server closed.", ["reason"])
resyncs = Counter("chat_resyncs", "Connections that were asked to resync.", ["reason"])
rate_limited = Counter("chat_rate_limited", "Requests and commands that a rate limit refused.", ["action", "by"])
bus_up = Gauge("chat_bus_up", "1 if the bus is connected, and always without a bus.")
database_unavailable = Counter("chat_database_unavailable", "Transactions refused without a database.")
pool_size = Gauge("chat_database_pool_size", "Size of the database connection pool.")
pool_in_use = Gauge("chat_database_pool_in_use", "Database connections in use.")
pool_waiting = Gauge("chat_database_pool_waiting", "Transactions that wait for a database connection.")
storage_failures = Counter("chat_storage_failures", "Failed operations of the file storage.")

# A process may have several applications. The library counts requests once for each process.
count_request: Any = requests.default()

bus_up.set(1)


# Looking up a metric by its labels takes longer than counting, so each is looked up once.
_labelled = cache(_commands.labels)


def observe_command(command: str | None, code: str, seconds: float) -> None:
    """Count an answered command. `command` is None for an unknown name."""
    _labelled(command or "unknown", code).observe(seconds)


def watch_pool(pool: Any) -> None:
    """Read the metrics of the pool from SQLAlchemy whenever Prometheus scrapes them."""
    pool_size.set(pool.size())
    pool_in_use.set_function(pool.checkedout)
    # There is no public counter of waiting transactions.
    pool_waiting.set_function(lambda: len(pool._pool._queue._getters))
