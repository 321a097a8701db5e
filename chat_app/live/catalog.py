"""What exists over Socket.IO: every command and event with its shapes, for dispatch and for the documents."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class Command:
    """A command: `handler(session, connection, data)` with `data` valid for `input` answers `output`.

    `statuses`: the HTTP statuses that a success may have. `is_draft`: `handler(connection, data)` makes the message
    that the outbox then sends. `reads`: it changes nothing, and takes a RawConnection for a session.
    `variants`: of an input that is a union, by their `type`, to be validated without a search.
    """

    name: str
    handler: Callable[..., Any]
    input: TypeAdapter[Any]
    output: TypeAdapter[Any] | None
    statuses: tuple[int, ...]
    is_draft: bool = False
    reads: bool = False
    variants: dict[str, TypeAdapter[Any]] = field(default_factory=dict)

    def validate(self, data: Any) -> Any:
        """The argument. Raises pydantic's ValidationError."""
        kind = data.get("type") if self.variants and isinstance(data, dict) else None
        adapter = self.variants.get(kind, self.input) if isinstance(kind, str) else self.input
        return adapter.validator.validate_python(data)

    @property
    def description(self) -> str:
        """What it does and which events follow, for the reader of the documents."""
        return (self.handler.__doc__ or "").strip()


def _variants(argument: Any) -> tuple[Any, ...]:
    return get_args(get_args(argument)[0]) if get_origin(argument) is Annotated else ()


def _kinds(variant: Any) -> tuple[str, ...]:
    return get_args(variant.model_fields["type"].annotation)


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
            variants={kind: TypeAdapter(variant) for variant in _variants(argument) for kind in _kinds(variant)},
            output=None if answer is None else TypeAdapter(answer),
            statuses=statuses,
            **kind,
        )
        return handler

    return register
