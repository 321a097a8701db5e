"""What exists over Socket.IO: every command and event with its shapes, for dispatch and for the documents."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

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

    `statuses`: the HTTP statuses that a success may have.
    """

    name: str
    handler: Callable[..., Awaitable[Any]]
    input: TypeAdapter[Any]
    output: TypeAdapter[Any] | None
    statuses: tuple[int, ...]

    @property
    def description(self) -> str:
        """What it does and which events follow, for the reader of the documents."""
        return (self.handler.__doc__ or "").strip()


COMMANDS: dict[str, Command] = {}


def command(
    argument: Any, answer: Any = None, *, statuses: tuple[int, ...] = (200,)
) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., Awaitable[Any]]]:
    """Register a command under its function's name."""

    def register(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        COMMANDS[handler.__name__] = Command(
            name=handler.__name__,
            handler=handler,
            input=TypeAdapter(argument),
            output=None if answer is None else TypeAdapter(answer),
            statuses=statuses,
        )
        return handler

    return register
