"""What the proxy of compose.yaml logs, forwards and refuses, for `make test-image`."""

import json
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import asyncpg
import httpx

from tests import smoke

LOGIN = "/api/v1/auth/login"
SECRET = "a-secret-of-the-client"
# Above the 30 MiB that the servers accept, and above that of the Caddyfile.
ACCEPTED, REFUSED = 31 * 2**20, 40 * 2**20


def check_log(proxy: str, log: Path) -> None:
    """Its access log has the path and the id of a request, but neither its query string nor its headers."""
    answer = httpx.get(f"{proxy}/docs/?token={SECRET}", headers={"Authorization": SECRET, "Referer": SECRET})
    request_id = [answer.headers["x-request-id"]]
    (line,) = [line for line in _lines(log) if line["resp_headers"].get("X-Request-Id") == request_id]
    assert (line["request"]["method"], line["request"]["uri"], line["status"]) == ("GET", "/docs/", 200), line
    assert SECRET not in log.read_text()


def check_log_of_errors(proxy: str, log: Path) -> None:
    """The same, for the line of an error: no server is running."""
    before = len(log.read_text())
    assert httpx.get(f"{proxy}/docs/?token={SECRET}", timeout=60).status_code in (502, 503)
    assert '"/docs/"' in log.read_text()[before:]
    assert SECRET not in log.read_text()


def _lines(log: Path) -> list[dict[str, Any]]:
    """The lines of requests."""
    found = map(json.loads, log.read_text().splitlines())
    return [line for line in found if line.get("logger") == "http.log.access"]


async def check_addresses(proxy: str, postgres: str) -> None:
    """Sessions are of the addresses of their clients: not of the proxy, and not of a header that a client has sent."""
    clients = {"one": "127.8.8.8", "the same": "127.8.8.8", "another": "127.9.9.9"}
    for number, (name, address) in enumerate(clients.items()):
        headers = {"User-Agent": name, "X-Forwarded-For": f"192.0.2.{number}"}
        form = {"username": smoke.ANNA, "password": smoke.PASSWORD}
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(local_address=address)) as http:
            assert (await http.post(f"{proxy}{LOGIN}", data=form, headers=headers)).status_code == 200
    connection = await asyncpg.connect(f"postgresql://postgres@{postgres}/chat")
    rows = await connection.fetch("SELECT user_agent, address_hash FROM session")
    await connection.close()
    found = dict(rows)
    assert found["one"] == found["the same"] != found["another"], "the proxy does not forward the addresses of clients"


class _Upstream(BaseHTTPRequestHandler):
    """A server without a limit, in the place of one of ours."""

    protocol_version = "HTTP/1.1"
    received = 0

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        type(self).received = 0
        with suppress(OSError, ValueError):
            while size := int(self.rfile.readline(), 16):
                type(self).received += len(self.rfile.read(size + 2)) - 2
            self.rfile.readline()
            self._answer()

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


def check_body_limit(proxy: str, address: str) -> None:
    """A body larger than any that the servers accept ends at the proxy, also one without a Content-Length."""
    with ThreadingHTTPServer((address, 8000), _Upstream) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        smoke.wait_until_ready(f"{proxy}/")
        assert httpx.post(proxy, content=_chunks(ACCEPTED), timeout=60).status_code == 200
        assert _Upstream.received == ACCEPTED
        with suppress(httpx.TransportError):
            assert httpx.post(proxy, content=_chunks(REFUSED), timeout=60).status_code == 413
        assert _Upstream.received < REFUSED
        server.shutdown()


def _chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 2**16):
        yield bytes(2**16)
