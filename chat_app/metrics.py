"""The figures of this process: only defined here, and observed where they happen. No label holds what a client sent."""

from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from prometheus_fastapi_instrumentator import metrics as requests

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_commands = Histogram(
    "chat_command_seconds", "Commands, from their arrival to the answer.", ["command", "code"], buckets=SECONDS
)
commit_batch = Histogram("chat_commit_messages", "Messages in one commit.", buckets=(1, 2, 5, 10, 20, 50, 100, 200))
delivery = Histogram(
    "chat_delivery_seconds", "From a commit to the writing of its events to the connections here.", buckets=SECONDS
)
delivered = Counter("chat_connections_told", "Connections that were told of a commit, each once for each commit.")
connections = Gauge("chat_connections", "Connections of this process that are open.")
cut = Counter("chat_connections_cut", "Connections that the server gave up.", ["reason"])
resyncs = Counter("chat_resyncs", "Connections that were told that they may have missed something.", ["reason"])
rate_limited = Counter("chat_rate_limited", "What was refused because it came too often.", ["action", "by"])
bus_up = Gauge("chat_bus_up", "Whether this process reaches the others; 1 without a bus too.")
database_unavailable = Counter("chat_database_unavailable", "Transactions for which the database was not there.")
pool_size = Gauge("chat_database_pool_size", "Connections to the database that this process may have.")
pool_in_use = Gauge("chat_database_pool_in_use", "Those of them that are in use.")
pool_waiting = Gauge("chat_database_pool_waiting", "Transactions that wait for one.")
storage_failures = Counter("chat_storage_failures", "Failed attempts to reach the store of files.")

# Made once: of several applications in one process the library counts the requests of the first only.
count_request: Any = requests.default()

bus_up.set(1)


class _Commands(dict[tuple[str, str], Any]):
    """To find the figures of a command by its labels takes longer than to count it: they are looked up once."""

    def __missing__(self, labels: tuple[str, str]) -> Any:
        child = self[labels] = _commands.labels(*labels)
        return child


_by_labels = _Commands()


def observe_command(command: str | None, code: str, seconds: float) -> None:
    """Count a command that was answered; its name is None if there is no such command."""
    _by_labels[command or "unknown", code].observe(seconds)


def watch_pool(pool: Any) -> None:
    """Let the figures of the pool be those of SQLAlchemy's at the moment when they are asked for."""
    pool_size.set(pool.size())
    pool_in_use.set_function(pool.checkedout)
    # It doesn't tell how many wait.
    pool_waiting.set_function(lambda: len(pool._pool._queue._getters))
