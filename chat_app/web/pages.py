"""The pages beside Swagger: the Socket.IO contract to read and to download, without anything from the internet."""

from functools import cache
from importlib.resources import files

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from chat_app.web.asyncapi import asyncapi
from chat_app.web.texts import CONTENT

router = APIRouter(include_in_schema=False)

VIEWER = str(files("asyncapi_viewer") / "static" / "asyncapi-viewer.js")
ONLY_OWN = {"Content-Security-Policy": "default-src 'self' data: 'unsafe-inline'; script-src 'self'"}


@router.get("/")
@router.get("/docs")
@router.get("/docs/events")
async def to_page(request: Request) -> RedirectResponse:
    """Relative, so that it also holds behind a proxy that adds a prefix."""
    return RedirectResponse(f"{request.url.path.rpartition('/')[2] or 'docs'}/")


@router.get("/docs/events/")
async def events_page() -> FileResponse:
    return FileResponse(CONTENT / "events.html", headers=ONLY_OWN)


@router.get("/docs/events/asyncapi-viewer.js")
async def viewer() -> FileResponse:
    return FileResponse(VIEWER, media_type="text/javascript")


@router.get("/asyncapi.json")
async def asyncapi_json() -> Response:
    return Response(_asyncapi(), media_type="application/json")


_asyncapi = cache(lambda: orjson.dumps(asyncapi()))
