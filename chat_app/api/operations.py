"""The catalog: an operation is a FastAPI route, and `live/commands.py` makes a Socket.IO command of it.

The route alone declares what an operation takes (signature), answers (return annotation), refuses (`responses`) and
does (docstring).
"""

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import signature
from typing import Any, get_args, get_origin

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from chat_app.api.deps import authenticated, bearer
from chat_app.logs import bind, ids_in
from chat_app.media.links import at_host, host_of
from chat_app.models.answers import Created, status_and_data
from chat_app.models.wire_json import as_json


class _Request(Request):
    async def json(self) -> Any:
        """The standard library would block the event loop for 20 ms with a photo of 4 MB."""
        return orjson.loads(await self.body())


class Protected(APIRoute):
    """A route that authenticates before the body is read: FastAPI reads up to 30 MB before it solves dependencies."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def authenticate_first(request: Request) -> Response:
            request.state.actor = await authenticated(request, await bearer(request))
            response = await handle(_Request(request.scope, request.receive))
            if (host := host_of(request.scope)) is not None:
                del response.headers["content-length"]
                response = Response(at_host(bytes(response.body), host), response.status_code, response.headers)
            return response

        return authenticate_first


class Operation(Protected):
    """A protected route whose function both transports call."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.function = endpoint
        answer = signature(endpoint).return_annotation
        creates = get_origin(answer) is Created
        self.answer: Any = get_args(answer)[0] if creates else answer
        self.statuses: tuple[int, ...] = (201, 200) if creates else (204,) if answer is None else (200,)
        if creates:
            options["responses"] |= {200: {"model": self.answer, "description": "It was there already."}}
        options |= {"response_model": self.answer, "status_code": self.statuses[0]}
        super().__init__(path, _answered(endpoint), **options)


def _answered(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    async def answer(**arguments: Any) -> Response:
        bind(**ids_in(arguments))
        status, data = status_and_data(await function(**arguments))
        if status == 204:
            return Response(status_code=204)
        # Without validation: to validate our own data takes twice as long as to read it.
        content = data if isinstance(data, bytes) else as_json(data)
        return Response(content, status, media_type="application/json")

    return answer
