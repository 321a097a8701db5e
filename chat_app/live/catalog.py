"""What exists over Socket.IO: every command and event with its shapes, for dispatch and for the documents."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter

from chat_app.events import (
    ChatsChanged,
    MessagesChanged,
    PresenceChanged,
    ReadChanged,
    Ready,
    ResyncRequired,
    SessionEnded,
    TypingChanged,
    UsersChanged,
    WireEvent,
)

# In the order of the documents. Each class carries its name in `event` and its meaning in its docstring.
EVENTS: tuple[type[WireEvent], ...] = (
    Ready,
    ChatsChanged,
    MessagesChanged,
    ReadChanged,
    TypingChanged,
    PresenceChanged,
    UsersChanged,
    ResyncRequired,
    SessionEnded,
)


@dataclass(frozen=True, slots=True)
class Command:
    """A command: `handler(session, connection, data)` with `data` valid for `input` answers `output`.

    `statuses`: the HTTP statuses that a success may have. `is_draft`: `handler(connection, data)` makes the message
    that the outbox then sends. `reads`: it changes nothing, and takes a Batch for a session.
    """

    name: str
    handler: Callable[..., Any]
    input: TypeAdapter[Any]
    output: TypeAdapter[Any] | None
    statuses: tuple[int, ...]
    is_draft: bool = False
    reads: bool = False

    @property
    def description(self) -> str:
        """What it does and which events follow, for the reader of the documents."""
        return (self.handler.__doc__ or "").strip()


COMMANDS: dict[str, Command] = {}
Handler = TypeVar("Handler", bound=Callable[..., Any])


def command(
    argument: Any, answer: Any = None, *, statuses: tuple[int, ...] = (200,), **kind: bool
) -> Callable[[Handler], Handler]:
    """Register a command under its function's name."""

    def register(handler: Handler) -> Handler:
        COMMANDS[handler.__name__] = Command(
            name=handler.__name__,
            handler=handler,
            input=TypeAdapter(argument),
            output=None if answer is None else TypeAdapter(answer),
            statuses=statuses,
            **kind,
        )
        return handler

    return register
