"""In development the URLs of media have the host under which each client reached the service; CHAT_PUBLIC_URL wins."""

import asyncio
import base64
import json
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr

from chat_app.crud import avatars
from chat_app.live.engine.frames import Packet
from chat_app.media.links import host_of
from chat_app.models.sessions import Actor
from chat_app.settings import Settings, get_settings, use_settings
from tests.clients import Person, Socket, SocketTransport, http_answer
from tests.media.pictures import loaded
from tests.service import Service

PHONE, EMULATOR = "192.168.1.20:8000", "10.0.2.2:8000"


async def connect(person: Person, host: str) -> Socket:
    """A connection to the same service under another host."""
    socket = Socket()
    person.sockets.append(socket)
    await socket.connect(person.base, {"token": person.token}, headers={"Host": host})
    return socket


async def upload(person: Person, host: str) -> Any:
    file = {"file": ("a.jpg", loaded("JPEG"), "image/jpeg")}
    answer = http_answer(await person.http.post("/api/v1/attachments", files=file, headers={"Host": host}))
    assert answer.status == 201
    return answer.data


async def set_avatar(person: Person, **headers: str) -> Any:
    image = base64.b64encode(loaded("PNG")).decode()
    return (await person.http.put("/api/v1/users/me/avatar", json={"image": image}, headers=headers)).json()


def urls_in(value: Any) -> list[str]:
    """Every URL of media in an answer or event."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    here = [value] if isinstance(value, str) and "/media/" in value else []
    return here + [url for part in parts for url in urls_in(part)]


def hosts(value: Any) -> set[str]:
    """The beginnings of all URLs of media in an answer or event."""
    return {"{0.scheme}://{0.netloc}".format(urlsplit(url)) for url in urls_in(value)}


async def test_an_answer_has_the_host_of_its_request(anna: Person, boris: Person) -> None:
    made = await upload(anna, PHONE)
    assert hosts(made) == {f"http://{PHONE}"} and len(urls_in(made)) == 2
    assert hosts(await set_avatar(anna, Host=EMULATOR)) == {f"http://{EMULATOR}"}
    chat_id = (await SocketTransport().open_private_chat(boris, anna))["id"]
    message = {"type": "image", "attachment_id": made["id"]}
    path = f"/api/v1/chats/{chat_id}/messages"
    sent = await anna.http.post(path, json=message, headers={"Host": EMULATOR})
    assert (sent.status_code, hosts(sent.json())) == (201, {f"http://{EMULATOR}"})
    for host in (PHONE, EMULATOR, "localhost", "my_machine.local:80", "[::1]:8000"):
        for address in (path, "/api/v1/chats", f"/api/v1/users/{anna.id}"):
            answer = await boris.http.get(address, headers={"Host": host})
            assert hosts(answer.json()) == {f"http://{host}"}
            assert int(answer.headers["content-length"]) == len(answer.content)
    # The service signs the rest of a URL only.
    rest = urls_in(sent.json())[0].removeprefix(f"http://{EMULATOR}")
    assert (await anna.http.get(rest)).status_code == 200


async def test_an_event_has_the_host_of_the_handshake_of_its_receiver(anna: Person, boris: Person) -> None:
    chat_id = (await SocketTransport().open_private_chat(anna, boris))["id"]
    at = {host: await connect(boris, host) for host in (PHONE, EMULATOR)}
    own = await connect(anna, PHONE)
    for socket in (*at.values(), own):
        assert (await socket.call("activate_chat", {"chat_id": chat_id})).ok
    made = await upload(anna, EMULATOR)
    message = {"type": "image", "attachment_id": made["id"], "client_id": str(uuid4())}
    sent = await own.call("send_message", message)
    assert hosts(sent.data) == {f"http://{PHONE}"}
    await set_avatar(anna)
    for host, socket in at.items():
        for name in ("messages_changed", "users_changed"):
            event = await socket.wait_for(name)
            assert hosts(event) == {f"http://{host}"}, name
        assert hosts((await socket.call("list_messages")).data) == {f"http://{host}"}


def test_an_event_is_encoded_once_for_each_host() -> None:
    packet = Packet(f'2["users_changed",["{get_settings().any_host}/media/x"]]'.encode())
    phone = packet.at(b"http://phone")
    assert phone.body == b'2["users_changed",["http://phone/media/x"]]'
    assert packet.at(b"http://phone") is phone
    assert packet.at(b"http://other") is not phone


@pytest.mark.parametrize("text", ["http://localhost:8000/media/avatars/x", "http://any_host/media/x", "\\u0000/media/"])
async def test_texts_stay_as_they_were_sent(text: str, anna: Person, boris: Person) -> None:
    chat_id = (await SocketTransport().open_private_chat(anna, boris))["id"]
    message = {"type": "text", "text": text}
    path = f"/api/v1/chats/{chat_id}/messages"
    sent = await anna.http.post(path, json=message, headers={"Host": PHONE})
    read = await boris.http.get(path, headers={"Host": EMULATOR})
    assert sent.json()["text"] == read.json()["items"][0]["text"] == text


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b" ", b"evil.example/path", b"user@evil.example", b'"><script>', b"evil.example:999999", b"a b"),
        *(b"evil.example?x=", b"evil.example#", b"\\evil", b"a" * 300, b"[::1", b"\xd0\xb0.example", b"evil.example:"),
    ],
)
async def test_a_host_that_is_none_is_ignored(host: bytes, anna: Person) -> None:
    await set_avatar(anna)
    address = urlsplit(anna.base)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = b"GET /api/v1/users/me HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer %b\r\nConnection: close\r\n\r\n"
    writer.write(head % (host, anna.token.encode()))
    answer = await reader.read()
    writer.close()
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))
    if answer.startswith(b"HTTP/1.1 200"):
        assert all(url.startswith("/media/") for url in urls_in(json.loads(answer.partition(b"\r\n\r\n")[2])))


@pytest.mark.parametrize(
    ("scheme", "expected"), [("http", b"http"), ("https", b"https"), ("ws", b"http"), ("wss", b"https")]
)
def test_the_scheme_is_that_of_the_request(scheme: str, expected: bytes) -> None:
    assert host_of({"scheme": scheme, "headers": [(b"host", b"phone")]}) == expected + b"://phone"


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"public_url": "https://media.example.com/"}, "https://media.example.com/media/"),
        ({"env": "production", "public_url": "https://media.example.com"}, "https://media.example.com/media/"),
        ({"env": "production"}, "/media/"),
    ],
    ids=["development", "production", "production without"],
)
async def test_a_public_url_wins_and_production_follows_no_host(
    changes: dict[str, str], start: str, anna: Person, boris: Person, service: Service, service_settings: Settings
) -> None:
    await SocketTransport().open_private_chat(anna, boris)
    secret = {"secret": SecretStr(service_settings.signing_secret.decode())}
    use_settings(service_settings.model_copy(update=changes | secret))
    try:
        socket = await connect(boris, PHONE)
        answer = await set_avatar(anna, Host=EMULATOR)
        event = await socket.wait_for("users_changed")
    finally:
        use_settings(service_settings)
    assert answer == event["users"][0]["avatar"]
    assert all(url.startswith(start) for url in urls_in(answer)) and len(urls_in(answer)) == 4


async def test_the_mark_in_the_place_of_the_host_is_no_host_that_a_client_can_guess(
    anna: Person, service: Service
) -> None:
    mark = get_settings().any_host
    assert mark and mark != Settings(secret=SecretStr("another")).any_host
    await set_avatar(anna)
    async with service.database.transaction() as db:
        stored = await avatars.set_avatar(db, Actor(UUID(anna.id), anna.session_id), "0" * 40 + ".png")
    assert stored.small.startswith(f"{mark}/media/")
    async with httpx.AsyncClient(base_url=service.base) as outsider:
        for page in ("/openapi.json", "/asyncapi.json", "/docs/"):
            assert mark not in (await outsider.get(page)).text
