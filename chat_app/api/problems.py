"""Errors as responses: one handler for our own errors, one for each error that the libraries raise."""

from collections.abc import Iterable, Mapping

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from chat_app.errors import (
    ChatError,
    Internal,
    InvalidInput,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    TooLarge,
    UnsupportedMediaType,
)
from chat_app.logs import bind, request_id
from chat_app.web.openapi import responses

__all__ = ["handle_errors", "problem_response", "responses"]

# For errors of the libraries, which have a status only.
_BY_STATUS: dict[int, type[ChatError]] = {400: InvalidInput} | {
    kind.status: kind for kind in (NotAuthenticated, NotFound, MethodNotAllowed, TooLarge, UnsupportedMediaType)
}
UNREADABLE = InvalidInput.at("", "unreadable", "The body can't be read.")


def problem_response(error: ChatError, headers: Mapping[str, str] | None = None) -> Response:
    """The error as `application/problem+json`."""
    bind(code=error.code)
    sent = dict(headers or {})
    if error.status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        sent["Retry-After"] = str(error.retry_after)
    return Response(
        orjson.dumps(error.problem(request_id())), error.status, sent, media_type="application/problem+json"
    )


def handle_errors(api: FastAPI) -> None:
    """Make every error that leaves a route a problem."""

    @api.exception_handler(ChatError)
    async def chat_error(_request: Request, error: ChatError) -> Response:
        return problem_response(error)

    @api.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        allowed = _allowed(request)
        if allowed and request.method not in allowed:
            return _method_not_allowed(allowed)
        # For invalid JSON the location is a position, not a field.
        is_json = error.errors()[0]["type"] != "json_invalid"
        return problem_response(InvalidInput.found(error.errors(), skip=1 if is_json else 2))

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        kind = _BY_STATUS.get(error.status_code, Internal)
        if kind is MethodNotAllowed:
            return _method_not_allowed(_allowed(request))
        return problem_response(UNREADABLE if kind is InvalidInput else kind())

    @api.exception_handler(Exception)
    async def crash(_request: Request, error: Exception) -> Response:
        return problem_response(Internal())


def _method_not_allowed(allowed: Iterable[str]) -> Response:
    return problem_response(MethodNotAllowed(), {"Allow": ", ".join(sorted(allowed))})


def _allowed(request: Request) -> set[str]:
    """The methods of an address. The router knows the methods of one route, and matches /chats/active as a chat."""
    paths: dict[str, dict[str, object]] = request.app.openapi()["paths"]
    for path in sorted(paths, key=lambda path: path.count("{")):
        if compile_path(path)[0].match(request.scope["path"]):
            return {method.upper() for method in paths[path]}
    return set()
