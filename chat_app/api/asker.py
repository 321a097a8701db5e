"""For routes that take in much, or wait: who asks is settled before the body is read, in a transaction of its own."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import orjson
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from chat_app.api.deps import authenticated, bearer
from chat_app.models.sessions import Actor


class _Request(Request):
    async def json(self) -> Any:
        """A photo of 4 MB would hold everybody up for 20 ms with the standard library."""
        return orjson.loads(await self.body())


class AskerRoute(APIRoute):
    """FastAPI reads a body before it solves dependencies: without this, anybody could make it keep 30 MB."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_authenticated(request: Request) -> Response:
            request.state.asker = await authenticated(request, await bearer(request))
            return await handle(_Request(request.scope, request.receive))

        return handle_authenticated


async def get_asker(request: Request, _token: Annotated[str | None, Depends(bearer)]) -> Actor:
    asker: Actor = request.state.asker
    return asker


Asker = Annotated[Actor, Depends(get_asker)]
