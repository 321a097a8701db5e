"""The operations as Socket.IO commands: path, query and body of a route come in one object.

A command is made from its route (`api/operations.py`): the same function, description, answer and errors. Only what
depends on the connection is written here: its active chat, and sends, which the outbox answers.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import reduce
from inspect import Parameter, cleandoc, signature
from operator import or_
from typing import Annotated, Any, get_args, get_origin
from uuid import UUID

from fastapi.params import Depends
from pydantic import Field, Strict, StrictBool, TypeAdapter, create_model

from chat_app.api import active, chats, members, messages
from chat_app.api.deps import get_actor, open_reading
from chat_app.api.operations import Operation
from chat_app.api.problems import errors_of
from chat_app.crud import chats as use_cases
from chat_app.crud.messages import Draft
from chat_app.database import Transaction
from chat_app.errors import ChatError, ChatNotFound, Internal, InvalidInput, NoActiveChat, RateLimited, Unavailable
from chat_app.live.connections import Connection
from chat_app.models.base import Input
from chat_app.models.messages import BY_TYPE, CREATES, types_of
from chat_app.models.screens import OpenChat

# Commands with only these fields share a schema, for the sake of generated clients.
SHARED = {("chat_id",): "ChatArgument", ("chat_id", "seq"): "MessageArgument"}
OPEN_CHAT: Any = (UUID | None, Field(default=None, description="Without it the active chat is meant."))
ALWAYS: frozenset[type[ChatError]] = frozenset((InvalidInput, RateLimited, Internal, Unavailable))


@dataclass
class Command:
    """`handler(db, connection, data)` answers `output`, with `data` valid for `argument`.

    `statuses`: the HTTP statuses of a success. `reads`: it changes nothing and takes a raw connection.
    `is_draft`: `handler(connection, data)` makes the message that the outbox sends.
    """

    name: str
    handler: Callable[..., Any]
    argument: Any
    output: Any = None
    statuses: tuple[int, ...] = (204,)
    description: str = ""
    errors: Set[type[ChatError]] = frozenset()
    reads: bool = False
    is_draft: bool = False

    def __post_init__(self) -> None:
        self.input = TypeAdapter(self.argument)
        # The kinds of a union by `type`, to be validated without a search.
        kinds = get_args(get_args(self.argument)[0]) if get_origin(self.argument) is Annotated else ()
        self._by_type = {name: TypeAdapter(kind) for kind in kinds for name in types_of(kind)}

    def validate(self, data: Any) -> Any:
        """The argument. Raises pydantic's ValidationError."""
        kind = data.get("type") if self._by_type and isinstance(data, dict) else None
        adapter = self._by_type.get(kind, self.input) if isinstance(kind, str) else self.input
        return adapter.validator.validate_python(data)


_routers = (chats.router, members.router, messages.router, active.router)
ROUTES = {route.name: route for router in _routers for route in router.routes if isinstance(route, Operation)}
COMMANDS: dict[str, Command] = {}
_models: dict[str, type[Input]] = {}


def command(
    name: str, argument: Any, *, errors: Set[type[ChatError]] = frozenset(), **differences: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command. What is not given comes from the route of this name; `errors` are added to the route's."""

    def register(handler: Callable[..., Any]) -> Callable[..., Any]:
        about: dict[str, Any] = {"errors": ALWAYS | errors}
        if route := ROUTES.get(name):
            about["errors"] |= errors_of(route.path, route.responses)
            about |= {"output": route.answer, "statuses": route.statuses, "description": route.description}
        if handler.__doc__:
            about["description"] = cleandoc(handler.__doc__)
        COMMANDS[name] = Command(name, handler, argument, **(about | differences))
        return handler

    return register


def _parameters(function: Callable[..., Any]) -> tuple[dict[Any, str], dict[str, Any], dict[str, type[Input]]]:
    """The parameters of a route: those of the transport by provider, path and query as fields, and the body."""
    provided, fields, body = {}, {}, {}
    for name, parameter in signature(function).parameters.items():
        is_annotated = get_origin(parameter.annotation) is Annotated
        kind, *notes = get_args(parameter.annotation) if is_annotated else (parameter.annotation,)
        provider = next((note.dependency for note in notes if isinstance(note, Depends)), None)
        if provider:
            provided[provider] = name
        elif isinstance(kind, type) and issubclass(kind, Input):
            body[name] = kind
        else:
            # In a URL everything is text; in JSON a number has to be one.
            strict = Strict() if int in (kind, *get_args(kind)) else Field()
            default = ... if parameter.default is Parameter.empty else parameter.default
            fields[name] = (Annotated[(kind, *notes, strict)], default)
    return provided, fields, body


def _derive(operation: Operation) -> None:
    """Register a command that calls the function of a route as FastAPI would."""
    provided, fields, body = _parameters(operation.function)
    actor_name = provided.pop(get_actor)
    ((provider, db_name),) = provided.items()
    errors: set[type[ChatError]] = set()
    if operation.name == "list_messages":
        fields["chat_id"], errors = OPEN_CHAT, {NoActiveChat}
    name = operation.name.title().replace("_", "")
    if not body:
        name = SHARED.get(tuple(fields), name)
    argument = next(iter(body.values()), Input)
    if fields:
        argument = _models.setdefault(name, create_model(name, __base__=argument, **fields))

    async def handle(db: Any, connection: Connection, data: Any) -> Any:
        arguments = dict.fromkeys(body, data) | {name: getattr(data, name) for name in fields}
        if "chat_id" in fields:
            arguments["chat_id"] = _chat_id(connection, data)
        return await operation.function(**{db_name: db, actor_name: connection.actor}, **arguments)

    command(operation.name, argument, reads=provider is open_reading, errors=errors)(handle)


def _chat_id(connection: Connection, data: Any) -> UUID:
    chat_id: UUID | None = data.chat_id or connection.active_chat_id
    if chat_id is None:
        raise NoActiveChat
    return chat_id


for _route in ROUTES.values():
    if _route.name != "send_message" and not _route.path.startswith(active.router.prefix):
        _derive(_route)

# Each kind of message, with a chat: a new kind needs nothing here.
_sends = [
    create_model(f"Send{kind.__name__.removesuffix('Create')}", __base__=kind, chat_id=OPEN_CHAT) for kind in CREATES
]


@command("send_message", Annotated[reduce(or_, _sends), *BY_TYPE], is_draft=True, errors={NoActiveChat})
def _send_message(connection: Connection, data: Any) -> Draft:
    return Draft(connection.actor, _chat_id(connection, data), data)


class ActivateChat(Input):
    chat_id: UUID | None


@command("activate_chat", ActivateChat, statuses=(200, 204))
async def _activate_chat(db: Transaction, connection: Connection, data: ActivateChat) -> OpenChat | None:
    """Open a chat on this connection, which then gets its `messages_changed` and `read_changed`. null: none (204)."""
    if data.chat_id is None:
        await use_cases.clear_active(db, connection.actor)
        connection.prepare_chat(None)
        return None
    version = await use_cases.activate_chat(db, connection.actor, data.chat_id)
    # Subscribed before it reads, so that no change is missed.
    connection.prepare_chat(data.chat_id, version)
    return await use_cases.open_chat(db, connection.actor, data.chat_id)


class SetTyping(Input):
    chat_id: UUID | None = OPEN_CHAT[1]
    typing: StrictBool


@command("set_typing", SetTyping, errors={ChatNotFound, NoActiveChat})
async def _set_typing(db: Transaction, connection: Connection, data: SetTyping) -> None:
    """Show that you are typing; repeat every 3 seconds. Others who have the chat active get `typing_changed`."""
    await use_cases.set_typing(db, connection.actor, _chat_id(connection, data), data.typing)
