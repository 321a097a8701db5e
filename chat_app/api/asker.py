"""For routes that take in much, or wait: who asks is settled before the body is read, in a transaction of its own."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi_users.authentication import BearerTransport

from chat_app.api.deps import count
from chat_app.auth import LOGIN_PATH, authenticate_connection
from chat_app.errors import NotAuthenticated
from chat_app.models.sessions import Actor

_bearer = BearerTransport(LOGIN_PATH).scheme


class AskerRoute(APIRoute):
    """FastAPI reads a body before it solves dependencies: without this, anybody could make it keep 30 MB."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def authenticated(request: Request) -> Response:
            token = await _bearer(request)
            if token is None:
                raise NotAuthenticated
            async with request.app.state.database.transaction() as session:
                request.state.asker = await authenticate_connection(session, token)
            count(request, user=request.state.asker.id)
            return await handle(request)

        return authenticated


async def get_asker(request: Request, _token: Annotated[str | None, Depends(_bearer)]) -> Actor:
    asker: Actor = request.state.asker
    return asker


Asker = Annotated[Actor, Depends(get_asker)]
