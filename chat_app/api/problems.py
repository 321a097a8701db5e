"""Errors as responses: one handler for our own errors, one for each error that the libraries raise."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from chat_app.errors import (
    ChatError,
    ChatNotFound,
    Internal,
    InvalidInput,
    MessageNotFound,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    all_errors,
)
from chat_app.logs import bind, context

PROBLEM = "application/problem+json"
# For errors of the libraries, which have a status only.
_BY_STATUS = {400: InvalidInput, 401: NotAuthenticated, 404: NotFound, 405: MethodNotAllowed}
# Errors that follow from a path.
_BY_PATH: dict[str, type[ChatError]] = {"{chat_id}": ChatNotFound, "{seq}": MessageNotFound}
UNREADABLE = InvalidInput.at("", "unreadable", "The body can't be read.")


def responses(*errors: type[ChatError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route with these errors; those that follow from its path the documents add."""
    answers: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        answer = answers.setdefault(error.status, {"description": "", "content": {PROBLEM: {"examples": {}}}})
        answer["description"] += f"\n- `{error.code}`: {error.meaning}"
        answer["content"][PROBLEM]["examples"][error.code] = {"$ref": f"#/components/examples/{error.code}"}
    return answers


def errors_of(path: str, answers: Mapping[Any, Any]) -> set[type[ChatError]]:
    """The errors of a route: those that its `responses` declare and those that follow from its path."""
    declared = {
        code for answer in answers.values() for code in answer.get("content", {}).get(PROBLEM, {}).get("examples", ())
    }
    by_path = {error for part, error in _BY_PATH.items() if part in path}
    return by_path | {error for error in all_errors() if error.code in declared}


def problem_response(error: ChatError, headers: Mapping[str, str] | None = None) -> Response:
    """The error as `application/problem+json`."""
    bind(**error.reasons())
    sent = dict(headers or {})
    if error.status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        sent["Retry-After"] = str(error.retry_after)
    return Response(orjson.dumps(error.problem(context().get("request_id"))), error.status, sent, media_type=PROBLEM)


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
        if expected := _expected_content_type(request):
            detail = f"Send {'JSON' if expected.endswith('json') else 'a form'}: the Content-Type is {expected}."
            return problem_response(InvalidInput.at("", "content_type_expected", detail))
        first = error.errors()[0]
        # For a body that is no JSON the location ends with a position, not with a field.
        is_json = first["type"] != "json_invalid" or isinstance(first["loc"][-1], str)
        return problem_response(InvalidInput.found(error.errors(), skip=1 if is_json else 2))

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        kind = _BY_STATUS.get(error.status_code, Internal)
        if kind is MethodNotAllowed:
            return _method_not_allowed(_allowed(request))
        return problem_response(UNREADABLE if kind is InvalidInput else kind())


def _method_not_allowed(allowed: Iterable[str]) -> Response:
    return problem_response(MethodNotAllowed(), {"Allow": ", ".join(sorted(allowed))})


def _expected_content_type(request: Request) -> str | None:
    """The content type of the body that the route reads, if the request has another one."""
    sent, body = request.headers.get("content-type", "").partition(";")[0].strip(), request.scope["route"].body_field
    expected: str | None = body and body.field_info.media_type
    return expected if sent and sent.lower() != expected else None


def _allowed(request: Request) -> set[str]:
    """The methods of an address. The router knows the methods of one route, and matches /chats/active as a chat."""
    paths: dict[str, dict[str, object]] = request.app.openapi()["paths"]
    for path in sorted(paths, key=lambda path: path.count("{")):
        if compile_path(path)[0].match(request.scope["path"]):
            return {method.upper() for method in paths[path]}
    return set()
