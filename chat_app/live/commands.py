"""The operations as Socket.IO commands: path, query and body of a route come in one object.

A command is made from its route (`api/operations.py`): the same function, description, answer and errors. Only what
depends on the connection is written here: its active chat, and sends, which the outbox answers.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import reduce
from inspect import cleandoc
from operator import or_
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

from fastapi.dependencies.models import Dependant
from pydantic import Field, Strict, StrictBool, TypeAdapter, create_model
from typing_extensions import TypeAliasType

from chat_app.api import active, chats, groups, members, messages, search
from chat_app.api.deps import get_actor, open_reading
from chat_app.api.operations import Operation
from chat_app.api.problems import errors_of
from chat_app.crud import chats as use_cases
from chat_app.crud.messages import Draft
from chat_app.database import Transaction
from chat_app.errors import ChatError, ChatNotFound, Internal, InvalidInput, NoActiveChat, RateLimited, Unavailable
from chat_app.live.connections import Connection
from chat_app.models.base import UNSET, Input, Line, Update
from chat_app.models.chats import ChatRead
from chat_app.models.messages import BY_TYPE, CREATES, ONCE
from chat_app.models.screens import OpenChat

# Commands with only these fields share a schema, for the sake of generated clients.
SHARED = {("chat_id",): "ChatArgument", ("chat_id", "seq"): "MessageArgument"}
OPEN_CHAT: Any = (UUID | None, Field(default=None, description="Without it the active chat is meant."))
Handler = Callable[..., Any]
Errors = Set[type[ChatError]]
ALWAYS: frozenset[type[ChatError]] = frozenset((InvalidInput, RateLimited, Internal, Unavailable))


@dataclass
class Command:
    """`handler(db, connection, data)` answers `output`, with `data` valid for `argument`.

    `statuses`: the HTTP statuses of a success. `reads`: it changes nothing and takes a raw connection.
    `is_draft`: `handler(connection, data)` makes the message that the outbox sends.
    """

    name: str
    handler: Handler
    argument: Any
    output: Any = None
    statuses: tuple[int, ...] = (204,)
    description: str = ""
    errors: Errors = frozenset()
    reads: bool = False
    is_draft: bool = False

    def __post_init__(self) -> None:
        self.input = TypeAdapter(self.argument)


_routers = (chats.router, groups.router, members.router, messages.router, search.router, active.router)
ROUTES = {route.name: route for router in _routers for route in router.routes if isinstance(route, Operation)}
_models: dict[str, type[Input]] = {}


def _command(name: str, handler: Handler, argument: Any, errors: Errors = frozenset(), **differences: Any) -> Command:
    """A command. What is not given comes from the route of this name; `errors` are added to the route's."""
    about: dict[str, Any] = {"errors": ALWAYS | errors}
    route = differences.pop("route", ROUTES.get(name))
    if route:
        about["errors"] |= errors_of(route.path, route.responses)
        about |= {"output": route.answer, "statuses": route.statuses, "description": route.description}
    if handler.__doc__:
        about["description"] = cleandoc(handler.__doc__)
    return Command(name, handler, argument, **(about | differences))


def _fields(dependant: Dependant) -> dict[str, Any]:
    """Path and query as the fields of one object. In a URL everything is text; JSON has numbers and flags."""
    fields = {}
    for parameter in (*dependant.path_params, *dependant.query_params):
        about = parameter.field_info
        strict = Strict() if {int, bool} & {about.annotation, *get_args(about.annotation)} else Field()
        fields[parameter.name] = (Annotated[about.annotation, about, strict], about.default)
    return fields


def derive(operation: Operation) -> Command:
    """A command that calls the function of a route as FastAPI would."""
    found = operation.dependant
    fields = _fields(found)
    body: dict[str, Any] = {part.name: part.field_info.annotation for part in found.body_params}
    provided: dict[Any, Any] = {dependency.call: dependency.name for dependency in found.dependencies}
    actor_name = provided.pop(get_actor)
    ((provider, db_name),) = provided.items()
    errors: Errors = frozenset()
    if operation.name == "list_messages":
        fields["chat_id"], errors = OPEN_CHAT, {NoActiveChat}
    name = operation.name.title().replace("_", "")
    if not body:
        name = SHARED.get(tuple(fields), name)
    argument = next(iter(body.values()), Input)
    if fields:
        argument = _models.setdefault(name, create_model(name, __base__=argument, **fields))

    async def handle(db: Any, connection: Connection, data: Any) -> Any:
        arguments = {name: getattr(data, name) for name in fields}
        if "{chat_id}" in operation.path:
            arguments["chat_id"] = _chat_id(connection, data)
        arguments |= {name: _part(data, kind) for name, kind in body.items()}
        return await operation.function(**{db_name: db, actor_name: connection.actor}, **arguments)

    return _command(operation.name, handle, argument, errors, route=operation, reads=provider is open_reading)


def _part(data: Any, kind: type[Input]) -> Input:
    """The body without path and query: a use case may ask which of its fields were sent."""
    values = {name: getattr(data, name) for name in kind.model_fields}
    return kind.model_construct(data.model_fields_set & kind.model_fields.keys(), **values)


def _chat_id(connection: Connection, data: Any) -> UUID:
    chat_id: UUID | None = data.chat_id or connection.active_chat_id
    if chat_id is None:
        raise NoActiveChat
    return chat_id


# A client that reconnects sends what was not answered again.
CLIENT_ID: Any = (UUID, Field(description=ONCE))
# Each kind of message, with a chat: a new kind needs nothing here.
_sends = [
    create_model(f"Send{kind.__name__.removesuffix('Create')}", __base__=kind, chat_id=OPEN_CHAT, client_id=CLIENT_ID)
    for kind in CREATES
]
SendMessage: Any = TypeAliasType("MessageCreate", Annotated[reduce(or_, _sends), *BY_TYPE])


def _send_message(connection: Connection, data: Any) -> Draft:
    return Draft(connection.actor, _chat_id(connection, data), data)


class ActivateChat(Input):
    chat_id: UUID | None


async def _activate_chat(db: Transaction, connection: Connection, data: ActivateChat) -> OpenChat | None:
    """Open a chat on this connection: it then gets its `messages_changed` and `read_changed`. null: none (204)."""
    if data.chat_id is None:
        await use_cases.clear_active(db, connection.actor)
        connection.prepare_chat(None)
        return None
    version = await use_cases.activate_chat(db, connection.actor, data.chat_id)
    # Subscribed before it reads, so that no change is missed.
    connection.prepare_chat(data.chat_id, version)
    return await use_cases.open_chat(db, connection.actor, data.chat_id)


class RenameChat(Update):
    one_of = ("title",)

    chat_id: UUID
    title: Line | None = Field(default=None, description="Your own title for the chat; null removes it.")
    unset: list[Literal["title"]] = UNSET


async def _rename_chat(db: Transaction, connection: Connection, data: RenameChat) -> ChatRead:
    """Give a chat your own title: nobody else sees it, and null removes it. You get `chats_changed`."""
    return await use_cases.rename_chat(db, connection.actor, data.chat_id, data.title)


class SetTyping(Input):
    chat_id: UUID | None = OPEN_CHAT[1]
    typing: StrictBool


async def _set_typing(db: Transaction, connection: Connection, data: SetTyping) -> None:
    """Show that you are typing; repeat every 3 seconds. Others who have the chat active get `typing_changed`, and so
    does the peer of a private chat.
    """
    await use_cases.set_typing(db, connection.actor, _chat_id(connection, data), data.typing)


_written = (
    _command("send_message", _send_message, SendMessage, is_draft=True, errors={NoActiveChat}),
    _command("activate_chat", _activate_chat, ActivateChat, statuses=(200, 204)),
    _command("rename_chat", _rename_chat, RenameChat, {ChatNotFound}, output=ChatRead, statuses=(200,)),
    _command("set_typing", _set_typing, SetTyping, errors={ChatNotFound, NoActiveChat}),
)
_derived = [
    derive(route)
    for route in ROUTES.values()
    if route.name != "send_message" and not route.path.startswith(active.router.prefix)
]
COMMANDS: dict[str, Command] = {command.name: command for command in (*_derived, *_written)}
