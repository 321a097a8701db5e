"""Structured logs in one format for the service, uvicorn and SQLAlchemy. Each line carries its request id.

Never log a phone, token, password, message text or picture. Log ids, counts, codes and times.
"""

import asyncio
import itertools
import logging
import re
import secrets
import sys
import traceback
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import structlog
from structlog import processors, stdlib
from structlog.typing import EventDict, Processor

from chat_app.errors import ChatError, Internal

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

# At INFO these log secrets: URLs with queries, frames with tokens and texts, statements with values. The last one logs
# its plugins at each start.
VERBOSE = (
    *("uvicorn.error", "socketio", "engineio", "websockets", "multipart", "python_multipart", "httpx", "httpcore"),
    *("sqlalchemy.engine", "chat_app.driver.Pool", "asyncio", "alembic.runtime.plugins"),
)

log: stdlib.BoundLogger = structlog.get_logger("chat_app")


def configure(level: str, style: str | None) -> None:
    """Send all logs to stderr. `style` is console, json or None. None means console in a terminal, else json."""
    global _is_json
    console = style == "console" or (style is None and sys.stderr.isatty())
    _is_json = not console and logging.getLevelName(level) <= logging.INFO
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        stdlib.add_log_level,
        stdlib.add_logger_name,
        processors.TimeStamper(fmt="iso", utc=True),
        _plain_values,
    ]
    structlog.configure(
        processors=[stdlib.filter_by_level, *shared, stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=stdlib.LoggerFactory(),
        wrapper_class=stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    for_people: list[Processor] = [structlog.dev.ConsoleRenderer()]
    for_programs: list[Processor] = [processors.format_exc_info, processors.JSONRenderer()]
    render = [stdlib.ProcessorFormatter.remove_processors_meta, *(for_people if console else for_programs)]
    handler = _Handler()
    handler.setFormatter(stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=render))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in VERBOSE:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def line(event: str, values: dict[str, Any]) -> None:
    """A fast log.info for hot paths. Lines are written once in an iteration of the event loop, and share their time."""
    global _now
    if not _is_json:
        log.info(event, **values)
        return
    if not _lines:
        asyncio.get_running_loop().call_soon(_write_lines)
        _now = datetime.now(UTC)
    line = {"event": event, "level": "info", "logger": "chat_app", "timestamp": _now, **values}
    # str: the driver has a UUID type of its own.
    _lines.append(orjson.dumps(line, str, _LINE))


class _Handler(logging.StreamHandler[Any]):
    """Writes pending lines first, so that the log keeps its order."""

    def handle(self, record: logging.LogRecord) -> Any:
        _write_lines()
        return super().handle(record)


def log_info(event: str, **values: Any) -> None:
    """As `line`, with the log context of the request."""
    line(event, structlog.contextvars.get_contextvars() | values)


_is_json = False
_LINE = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
_lines: list[bytes] = []
_now = datetime.now(UTC)


def _write_lines() -> None:
    if _lines:
        sys.stderr.buffer.write(b"".join(_lines))
        sys.stderr.buffer.flush()
        _lines.clear()


def _plain_values(_logger: Any, _name: str, event: EventDict) -> EventDict:
    return {key: str(value) if isinstance(value, UUID) else value for key, value in event.items()}


def new_request_id(proposed: str | None = None) -> str:
    """Return the client's id if its characters are safe, else a new id."""
    return proposed if proposed and REQUEST_ID.fullmatch(proposed) else f"{_process}{next(_numbers):012x}"


_process = secrets.token_hex(10)
_numbers = itertools.count(1)


def bind_request(**values: Any) -> None:
    """Start the log context of a request or command. All later lines carry these values."""
    structlog.contextvars.clear_contextvars()
    bind(**values)


# Add to the log context of the request.
bind = structlog.contextvars.bind_contextvars


def request_ids() -> list[str]:
    """Those of the requests and commands that this commit is for."""
    context = structlog.contextvars.get_contextvars()
    return [id for id in context.get("requests", [context.get("request_id")]) if id]


def bound(name: str) -> str | None:
    """A value of the log context."""
    found: str | None = structlog.contextvars.get_contextvars().get(name)
    return found


def as_chat_error(error: Exception) -> ChatError:
    """The error that a client gets. One that nobody expected is logged."""
    if isinstance(error, ChatError):
        return error
    log_crash(error)
    return Internal()


def log_crash(error: BaseException) -> None:
    """Log the type and the traceback of an unexpected error, but not its text, which may hold client input."""
    frames = traceback.extract_tb(error.__traceback__)
    log.error(
        "crashed",
        error=f"{type(error).__module__}.{type(error).__qualname__}",
        trace=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-25:]],
    )
