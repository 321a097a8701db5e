"""Requests over a few open connections, the next as soon as the last is answered."""

import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.bench.load import MOST_ERRORS_KEPT
from tests.bench.report import Outcome, percentile
from tests.bench.servers import Server
from tests.bench.usage import per

CONNECTIONS = 8
WARM_SECONDS = 3
SILENT_SECONDS = 30


@dataclass
class _Client:
    socket: socket.socket
    sent: float = 0.0
    kept: bytes = b""


@dataclass
class _Run:
    port: int
    request: Callable[[int], bytes]
    milliseconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    received: int = 0
    number: int = 0

    def __post_init__(self) -> None:
        self.poll = select.epoll()
        self.clients: dict[int, _Client] = {}
        for _ in range(CONNECTIONS):
            client = _Client(socket.create_connection(("127.0.0.1", self.port)))
            self.clients[client.socket.fileno()] = client
            self.poll.register(client.socket, select.EPOLLIN)
            self._send(client)

    def go_on(self, seconds: float) -> None:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            ready = self.poll.poll(SILENT_SECONDS)
            if not ready:
                raise RuntimeError("the server answers no requests")
            for fd, _ in ready:
                self._read(self.clients[fd])

    def close(self) -> None:
        for client in self.clients.values():
            client.socket.close()
        self.poll.close()

    def _send(self, client: _Client) -> None:
        client.socket.sendall(self.request(self.number))
        client.sent, client.kept, self.number = time.perf_counter(), b"", self.number + 1

    def _read(self, client: _Client) -> None:
        data = client.socket.recv(1 << 18)
        if not data:
            raise RuntimeError("the server closed a connection")
        client.kept += data
        head, found, body = client.kept.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self.received += length
        self.milliseconds.append((time.perf_counter() - client.sent) * 1000)
        if not head.startswith(b"HTTP/1.1 200"):
            self.errors.append(client.kept[:300].decode(errors="replace"))
        self._send(client)


def get(path: str, token: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def measure(server: Server, request: Callable[[int], bytes], seconds: float) -> Outcome:
    """`request(number)` makes the request of this number."""
    run = _Run(server.port, request)
    try:
        run.go_on(WARM_SECONDS)
        run.milliseconds.clear()
        before, started, received = server.usage(), time.perf_counter(), run.received
        run.go_on(seconds)
        took, after = time.perf_counter() - started, server.usage()
    finally:
        run.close()
    done = len(run.milliseconds)
    row = {
        "requests/s": done / took,
        **after.rates(before, "requests", done),
        "p50, ms": percentile(run.milliseconds, 50),
        "p99, ms": percentile(run.milliseconds, 99),
        "answer, KB": per((run.received - received) / 1024, done),
        **after.since(before, took),
    }
    return Outcome(row, run.errors[:MOST_ERRORS_KEPT] + server.complaints()[:MOST_ERRORS_KEPT])
