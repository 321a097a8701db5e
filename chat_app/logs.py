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
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars, merge_contextvars
from structlog.dev import ConsoleRenderer
from structlog.processors import JSONRenderer, TimeStamper
from structlog.stdlib import (
    BoundLogger,
    LoggerFactory,
    ProcessorFormatter,
    add_log_level,
    add_logger_name,
    filter_by_level,
)
from structlog.typing import EventDict, Processor

from chat_app import metrics
from chat_app.errors import ChatError, Internal

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# In what a client calls itself: what may be a phone number or a token, and all but printable ASCII.
SUSPECT = re.compile(r"\d{9,}|[\w.=-]{40,}|[^ -~]")
# The names of loggers. That of security events CHAT_LOG_LEVEL=WARNING leaves on. That of health checks is for DEBUG.
SERVICE, AUDIT, PROBES = "chat_app", "chat_app.audit", "chat_app.probes"
# The lines of a request before its last one. CHAT_LOG_LINES=requests leaves them out.
STAGES = {"received", "authenticated", "authorized", "committed", "published", "delivered"}

# At INFO these log secrets: URLs with queries, frames with tokens and texts, statements with values. The last one logs
# its plugins at each start.
VERBOSE = (
    *("uvicorn.error", "socketio", "engineio", "websockets", "multipart", "python_multipart", "httpx", "httpcore"),
    *("sqlalchemy.engine", "chat_app.driver.Pool", "asyncio", "alembic.runtime.plugins"),
)

log: BoundLogger = structlog.get_logger(SERVICE)


def configure(level: str, style: str | None, lines: str = "stages") -> None:
    """Send all logs to stderr. `style` is console, json or None. None means console in a terminal, else json.

    `lines`: "requests" for one line for each request, or "stages".
    """
    global _is_json, _is_brief, _written
    least, console = logging.getLevelName(level), style == "console" or (style is None and sys.stderr.isatty())
    _is_json, _is_brief = not console, lines == "requests"
    of_audit = least if least > logging.WARNING else logging.INFO
    levels = dict.fromkeys(VERBOSE, max(logging.WARNING, least))
    levels |= {SERVICE: least, AUDIT: of_audit, PROBES: least + logging.DEBUG}
    _written = {name for name in levels if levels[name] <= logging.INFO}
    shared: list[Processor] = [merge_contextvars, add_log_level, add_logger_name, TimeStamper(fmt="iso", utc=True)]
    structlog.configure(
        processors=[filter_by_level, *shared, ProcessorFormatter.wrap_for_formatter],
        logger_factory=LoggerFactory(),
        wrapper_class=BoundLogger,
        cache_logger_on_first_use=True,
    )
    json = JSONRenderer(separators=(",", ":"), ensure_ascii=False, default=str)
    render: list[Processor] = [_plain_values, ConsoleRenderer()] if console else [_with_place, json]
    render.insert(0, ProcessorFormatter.remove_processors_meta)
    handler = _Handler()
    handler.setFormatter(ProcessorFormatter(foreign_pre_chain=shared, processors=render))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name, lowest in levels.items():
        logging.getLogger(name).setLevel(lowest)
    # It describes its context at every health check.
    logging.getLogger("alembic.runtime.migration").addFilter(lambda record: record.msg.startswith("Running"))
    logging.captureWarnings(True)  # Python would print them as plain text


def line(event: str, values: Mapping[str, Any], name: str = SERVICE) -> None:
    """A fast log.info for hot paths. Lines are written once in an iteration of the event loop, and share their time."""
    global _now
    if _is_brief and event in STAGES:
        return
    if not _is_json:
        structlog.get_logger(name).info(event, **values)
    elif name in _written:
        if not _lines:
            asyncio.get_running_loop().call_soon(_write_lines)
            _now = datetime.now(UTC)
        level = "debug" if name == PROBES else "info"
        line = {"event": event, "level": level, "logger": name, "timestamp": _now, **values}
        # str: the driver has a UUID type of its own.
        _lines.append(orjson.dumps(line, str, _LINE))


class _Handler(logging.StreamHandler[Any]):
    """Writes pending lines first, so that the log keeps its order."""

    def handle(self, record: logging.LogRecord) -> Any:
        _write_lines()
        return super().handle(record)


def log_info(event: str, name: str = SERVICE, /, **values: Any) -> None:
    """As `line`, with the log context of the request."""
    line(event, context() | values, name)


def log_authorized(**values: Any) -> None:
    """Log, once for each request, that its actor has the permission. `values` join its log context."""
    if "authorized" not in context():
        bind(authorized=True, **values)
        log_info("authorized")


def log_answered(values: dict[str, Any], client: dict[str, Any], name: str = SERVICE) -> None:
    """Log the end of a request, and before it why it was refused. Lines that may be the only ones have its `client`."""
    if values.get("code", Internal.code) != Internal.code:
        line("refused", values | client, AUDIT)
    line("answered", {"code": "ok", **values, **(client if _is_brief else {})}, name)


def log_fault(text: str) -> None:
    """Write why a command can't do its work."""
    if _is_json:
        log.error("failed", reason=text)
    else:
        sys.stderr.write(f"{text}\n")


def client(address: str | None, agent: str | None) -> dict[str, Any]:
    """Where a request comes from, with a user agent that can't hold a secret."""
    return {"client": address, "agent": SUSPECT.sub("…", (agent or "")[:200])}


def ids_in(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The ids among the arguments of an operation, by their names in the log."""
    ids = {name: value for name, value in arguments.items() if name == "seq" or isinstance(value, UUID)}
    return {"chat" if name == "chat_id" else name: value for name, value in ids.items()}


_is_json = _is_brief = False
_written: set[str] = set()
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


def _with_place(_logger: Any, _name: str, event: EventDict) -> EventDict:
    """Exceptions that libraries log look like our own."""
    _, error, *_ = event.pop("exc_info", None) or (None, None)
    return {**event, **_place(error)} if error else event


def new_request_id(proposed: str | None = None) -> str:
    """Return the client's id if its characters are safe, else a new id."""
    return proposed if proposed and REQUEST_ID.fullmatch(proposed) else f"{_process}{next(_numbers):012x}"


_process = secrets.token_hex(10)
_numbers = itertools.count(1)


def bind_request(**values: Any) -> None:
    """Start the log context of a request or command. All later lines carry these values."""
    clear_contextvars()
    bind(**values)


# Add to the log context of the request, and read it.
bind, context = bind_contextvars, get_contextvars


def request_ids() -> list[str]:
    """Those of the requests and commands that this commit is for."""
    values = context()
    return [id for id in values.get("requests", [values.get("request_id")]) if id]


def as_chat_error(error: Exception, **values: Any) -> ChatError:
    """The error that a client gets. One that nobody expected is logged, with these values."""
    if isinstance(error, ChatError):
        return error
    log_crash(error, "request", **values)
    return Internal()


def log_crash(error: BaseException, source: str = "background", **values: Any) -> None:
    """Count an unexpected error and log its type and traceback. Its text, which may hold client input, is left out."""
    metrics.crashes.labels(source).inc()
    log.error("crashed", **values, **_place(error))


def _place(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    trace = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-25:]]
    return {"error": f"{type(error).__module__}.{type(error).__qualname__}", "trace": trace}
