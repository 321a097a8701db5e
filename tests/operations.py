"""Every operation of both transports as the published documents list it, with valid arguments."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import reduce
from operator import getitem
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from chat_app.database import Database
from chat_app.live.commands import COMMANDS
from chat_app.main import create_api
from chat_app.settings import get_settings
from tests.clients import DEADLINE, Person, Transport

Json = dict[str, Any]

# A PNG of one pixel.
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="

API = create_api(get_settings())
DOCUMENT = API.openapi()


class Route(NamedTuple):
    """An HTTP operation."""

    method: str
    path: str
    described: Json

    @property
    def is_public(self) -> bool:
        return not self.described["security"]

    @property
    def content_type(self) -> str | None:
        """The content type of its body, None without one."""
        return next(iter(self.described.get("requestBody", {}).get("content", {})), None)

    def parameters(self, where: str) -> dict[str, Json]:
        """The schemas of the parameters in the path or in the query."""
        declared = self.described.get("parameters", [])
        return {parameter["name"]: parameter["schema"] for parameter in declared if parameter["in"] == where}

    def body_schema(self) -> Json:
        """The schema of its body, with the components that it refers to."""
        schema: Json = self.described["requestBody"]["content"][self.content_type]["schema"]
        return schema | {"components": DOCUMENT["components"]}

    def body(self, arguments: Json) -> Json:
        """The arguments that go into the body."""
        elsewhere = self.parameters("path") | self.parameters("query")
        return {name: value for name, value in arguments.items() if name not in elsewhere}

    def url(self, arguments: Json) -> str:
        """The URL with the arguments that go into its path and query."""
        path = self.path
        for name in self.parameters("path"):
            path = path.replace(f"{{{name}}}", str(arguments.get(name, uuid4())))
        query = {name: arguments[name] for name in self.parameters("query") if name in arguments}
        return f"{path}?{httpx.QueryParams(query)}" if query else path

    def fields(self) -> set[str]:
        """The names of all arguments."""
        in_body = fields_of(self.body_schema()) if self.content_type else set()
        return {*self.parameters("path"), *self.parameters("query"), *in_body}


ROUTES = {
    described["operationId"]: Route(method, path, described)
    for path, methods in DOCUMENT["paths"].items()
    for method, described in methods.items()
}


class Scene(NamedTuple):
    """A group of two members, with its ids."""

    creator: Person
    member: Person
    guest: Person  # not in the group
    chat_id: str
    seq: int  # a text of the creator's


async def make_scene(transport: Transport, creator: Person, member: Person, guest: Person) -> Scene:
    """Create a group with a message."""
    group = await transport.create_group(creator, member)
    message = await transport.send(creator, group["id"], "hello")
    return Scene(creator, member, guest, group["id"], message["seq"])


def valid_arguments(scene: Scene) -> dict[str, Json]:
    """Arguments by operation id with which the creator of the group succeeds, or the member where the creator can't."""
    code = {"phone": "+79990000000", "code": "123456"}
    chat = {"chat_id": scene.chat_id}
    message = chat | {"seq": scene.seq}
    new_text = {"type": "text", "text": "Hello again", "client_id": str(uuid4()), "reply_to": scene.seq}
    page = {"limit": 20}
    return {
        "activate_chat": chat,
        "add_members": chat | {"user_ids": [scene.guest.id], "share_history": True},
        "change_password": {"current_password": "long enough", "new_password": "longer still"},
        "clear_active_chat": {},
        "clear_chat": chat | {"hide": True},
        "create_attachment": {"duration": 1.5, "width": 640, "height": 480, "waveform": "[0, 255]"},
        "create_group": {"title": "Ours", "member_ids": [scene.member.id], "client_id": str(uuid4())},
        "delete_avatar": {},
        "delete_chat": chat,
        "delete_group_avatar": chat,
        "delete_message": message,
        "edit_message": message | {"text": "Better", "extra": {"color": "teal"}},
        "get_active_chat": {},
        "get_attachment": {"attachment_id": str(uuid4())},
        "get_chat": chat,
        "get_group": chat,
        "get_me": {},
        "get_message": message,
        "get_user": {"user_id": scene.member.id},
        "healthz": {},
        "leave_chat": chat,
        "like_message": message,
        "list_active_messages": page,
        "list_changes": chat | {"since": 0} | page,
        "list_chats": page,
        "list_likes": message | page,
        "list_members": chat,
        "list_pinned_messages": chat,
        "list_reactions": message | page | {"emoji": "👍"},
        "list_messages": chat | page,
        "list_sessions": {},
        "login": {"username": "+79990000000", "password": "long enough"},
        "login_with_code": code | {"password": "long enough"},
        "logout": {},
        "lookup_user": {"phone": "+79990000000"},
        "lookup_users": {"phones": ["+79990000000", "+79990000001"]},
        "mark_read": chat | {"seq": scene.seq},
        "metrics": {},
        "open_private_chat": {"user_id": scene.guest.id},
        "pin_chat": chat,
        "pin_message": message,
        "react": message | {"emoji": "👍"},
        "readyz": {},
        "refresh": {"refresh_token": "a.b-c_d"},
        "register": {"phone": "+79990000000", "password": "long enough", "name": "Anna"},
        "remove_member": chat | {"user_id": scene.member.id},
        "rename_chat": chat | {"title": "Mine"},
        "request_code": {"phone": "+79990000000", "purpose": "delete"},
        "reset_password": code | {"new_password": "longer still"},
        "revoke_session": {"session_id": str(uuid4())},
        "search_messages": chat | {"query": "hello", "types": ["text"], "sender_id": scene.creator.id} | page,
        "search_users": {"query": "Anna"} | page,
        "send_active_message": new_text,
        "send_message": chat | new_text,
        "set_avatar": {"image": "AAAA"},
        "set_creator": chat | {"user_id": scene.member.id},
        "set_group_avatar": chat | {"image": DOT},
        "set_typing": chat | {"typing": True},
        "unlike_message": message,
        "unpin_chat": chat,
        "unpin_message": message,
        "unreact": message | {"emoji": "👍"},
        "update_group": chat | {"title": "Theirs", "description": "All of us"},
        "update_mine": chat
        | {"title": "Mine", "muted_until": "2030-01-01T00:00:00Z", "archived": True, "marked_unread": True}
        | {"draft": {"text": "Hello", "reply_to": scene.seq}},
        "update_me": {"name": "Anna", "username": None, "bio": "Here", "extra": {"color": "teal"}},
        "verify_phone": code,
    }


def other_contents(name: str) -> list[Json]:
    """More valid arguments of `send_message`: one of each other type, to the active chat."""
    if name != "send_message":
        return []
    file = {"attachment_id": str(uuid4()), "text": "Look"}
    contents: list[Json] = [
        *({"type": kind, **file} for kind in ("image", "video", "audio", "voice", "file")),
        {"type": "location", "latitude": 43.5, "longitude": 39.7, "text": "Here"},
        {"type": "contact", "name": "Anna", "phone": "+7 916 000-00-00"},
        {"type": "custom", "extra": {"poll": [1, 2]}, "text": "A poll"},
        {"type": "forward", "from_chat_id": str(uuid4()), "from_seq": 1, "reply_to": 1, "extra": {"a": 1}},
    ]
    return [{"client_id": str(uuid4()), **content} for content in contents]


def kind(problem: Json) -> tuple[int | None, str | None]:
    """The status and code of a refusal, None for a success."""
    return problem.get("status"), problem.get("code")


def named_by(transport: Transport, field: str) -> set[str]:
    """The operations of this transport that take an argument of this name."""
    if transport.name == "socket":
        return {name for name, command in COMMANDS.items() if field in fields_of(command.input.json_schema())}
    return {name for name, route in ROUTES.items() if field in route.fields()}


def fields_of(schema: Json, root: Json | None = None) -> set[str]:
    """The fields of an object, or of all its variants."""
    root = root or schema
    if "$ref" in schema:
        schema = reduce(getitem, schema["$ref"].removeprefix("#/").split("/"), root)
    return set(schema.get("properties", ())).union(*(fields_of(kind, root) for kind in schema.get("oneOf", ())))


async def request(person: Person, name: str, arguments: Json) -> httpx.Response:
    """Send one request by operation id, with a body if it takes one."""
    route = ROUTES[name]
    if route.content_type is None:
        return await person.http.request(route.method, route.url(arguments))
    body = route.body(arguments)
    match route.content_type:
        case "application/json":
            return await person.http.request(route.method, route.url(arguments), json=body)
        case "multipart/form-data":
            file = {"file": ("notes.txt", b"Notes", "text/plain")}
            return await person.http.request(route.method, route.url(arguments), data=body, files=file)
    return await person.http.request(route.method, route.url(arguments), data=body)


async def refusal(transport: Transport, person: Person, name: str, arguments: Json) -> Json:
    """The problem of a refusal, without its request id."""
    if transport.name == "socket":
        ack = await person.socket.client.call(name, arguments)
        problem = ack.get("error", ack)
    else:
        response = await request(person, name, arguments)
        problem = {"answered": response.status_code} if response.is_success else response.json()
    return {key: value for key, value in problem.items() if key != "request_id"}


def event_names(person: Person) -> list[str]:
    """The names of the events on the first connection, without `presence_changed`, which may arrive at any time."""
    return [name for name, _ in person.socket.events if name != "presence_changed"]


async def fingerprint(database: Database) -> dict[str, tuple[int, Decimal | None]]:
    """A fingerprint of each table without `last_seen_at`: equal as long as nothing else is written."""
    async with database.engine.connect() as connection:
        return {
            table.name: tuple((await connection.execute(text(_FINGERPRINT.format(table=table.name)))).one())
            for table in SQLModel.metadata.sorted_tables
        }


@asynccontextmanager
async def broken_table(database: Database, name: str) -> AsyncIterator[None]:
    """In this block everything that needs the table crashes, since it has another name."""
    async with database.engine.begin() as connection:
        await connection.execute(text(f'ALTER TABLE "{name}" RENAME TO elsewhere'))
    yield
    async with database.engine.begin() as connection:
        await connection.execute(text(f'ALTER TABLE elsewhere RENAME TO "{name}"'))


async def wait_for_lock_waiter(connection: AsyncConnection, number: int = 1) -> None:
    """Return when so many backends wait for a lock."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    async with asyncio.timeout(DEADLINE):
        while (await connection.execute(waiting)).scalar_one() < number:
            pass


_FINGERPRINT = """
    SELECT count(*), sum(hashtextextended((to_jsonb(row) - 'last_seen_at')::text, 0)::numeric) FROM "{table}" AS row
"""
