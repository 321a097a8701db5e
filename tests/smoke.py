"""Chats through a running service as its demo users, with the standard library only: python tests/smoke.py [ADDRESS]"""

import json
import socket
import sys
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import Request, urlopen
from uuid import uuid4

PASSWORD = "demo-password"
ANNA, BORIS = "+79000000001", "+79000000002"
PAGES = ("docs/", "docs/events/", "openapi.json", "asyncapi.json", "docs/static/swagger-ui-bundle.js")
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


class Person:
    def __init__(self, address: str, phone: str) -> None:
        self.api = urljoin(address, "api/v1/")
        self.headers: dict[str, str] = {}
        form = urlencode({"username": phone, "password": PASSWORD}).encode()
        self.token = self._answer(Request(self.api + "auth/login", form))["access_token"]
        self.headers["Authorization"] = f"Bearer {self.token}"

    def request(self, method: str, path: str, body: object = None) -> Any:
        headers = self.headers | {"Content-Type": "application/json"}
        return self._answer(Request(self.api + path, json.dumps(body).encode(), headers, method=method))

    def upload(self, data: bytes) -> Any:
        mark = uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="smoke.bin"\r\n\r\n'
        headers = self.headers | {"Content-Type": f"multipart/form-data; boundary={mark}"}
        body = head.encode() + data + f"\r\n--{mark}--\r\n".encode()
        return self._answer(Request(self.api + "attachments", body, headers))

    def _answer(self, request: Request) -> Any:
        return json.loads(fetch(request) or "null")


class Listener:
    """A connection that receives events, with only the parts of WebSocket and Socket.IO that this needs."""

    def __init__(self, address: str, token: str) -> None:
        place = urlsplit(address)
        self.socket = socket.create_connection((place.hostname, place.port or 80), timeout=10)
        self.stream = self.socket.makefile("rb")
        self.socket.sendall(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: " + place.netloc.encode() + b"\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: c21va2Utc21va2Utc21vaw==\r\n\r\n"
        )
        status = self.stream.readline()
        assert b" 101 " in status, f"no WebSocket: {status!r}"
        while self.stream.readline().strip():
            pass
        self.send(f"40{json.dumps({'token': token})}")
        self.receive('42["ready"')

    def send(self, packet: str) -> None:
        data = packet.encode()
        # A text frame: its length in two bytes, and the required mask, of zeros.
        self.socket.sendall(b"\x81\xfe" + len(data).to_bytes(2, "big") + bytes(4) + data)

    def receive(self, text: str) -> None:
        """Wait for a packet with this text. Raises TimeoutError."""
        packet = ""
        while text not in packet:
            assert not packet.startswith("44"), f"refused: {packet}"
            length = self.stream.read(2)[1]
            if length >= 126:
                length = int.from_bytes(self.stream.read(2 if length == 126 else 8), "big")
            packet = self.stream.read(length).decode()
            if packet == "2":
                self.send("3")


def fetch(what: str | Request) -> bytes:
    """The body of an answer. urllib raises an error for an error status."""
    with urlopen(what, timeout=10) as answer:
        body: bytes = answer.read()
    return body


def is_ready(address: str) -> bool:
    with suppress(OSError):
        fetch(urljoin(address, "readyz"))
        return True
    return False


def wait_until_ready(address: str, seconds: int = 30) -> None:
    deadline = time.monotonic() + seconds
    while not is_ready(address):
        if time.monotonic() > deadline:
            raise SystemExit(f"{address} does not get ready")
        time.sleep(0.1)


def main(address: str) -> None:
    wait_until_ready(address)
    for page in PAGES:
        assert fetch(urljoin(address, page)), page

    anna, boris = Person(address, ANNA), Person(address, BORIS)
    chat = anna.request("POST", "chats/private", {"user_id": boris.request("GET", "users/me")["id"]})["id"]
    message = {"client_id": str(uuid4()), "type": "text", "text": f"Smoke {uuid4()}"}
    listener = Listener(address, boris.token)
    sent = anna.request("POST", f"chats/{chat}/messages", message)
    listener.receive(message["text"])
    assert boris.request("GET", f"chats/{chat}/messages/{sent['seq']}")["text"] == message["text"]

    # A picture goes through the worker process and the store of files.
    avatar = anna.request("PUT", "users/me/avatar", {"image": DOT})
    assert fetch(urljoin(address, avatar["small"])).startswith((b"\xff\xd8", b"\x89PNG"))
    anna.request("DELETE", "users/me/avatar")
    # A file of this size goes through a temporary file.
    data = bytes(range(256)) * 2**13
    assert fetch(urljoin(address, anna.upload(data)["url"])) == data
    sys.stdout.write(f"{address}: the pages, a message, its event, a picture and a file came through\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000/")
