"""The pages beside Swagger: the Socket.IO contract to read and to download, without anything from the internet."""

from functools import cache
from importlib.resources import files

import orjson
from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from chat_app.web.asyncapi import asyncapi

router = APIRouter(include_in_schema=False)

VIEWER = str(files("asyncapi_viewer") / "static" / "asyncapi-viewer.js")

EVENTS_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Chat events - AsyncAPI</title>
<link rel="icon" href="../../static-offline-docs/favicon.png">
<style>body { margin: 0; font-family: system-ui, sans-serif } p { margin: .75rem 1.5rem }</style>
<script type="module" src="asyncapi-viewer.js"></script>
</head>
<body>
<p><a href="../">HTTP API (Swagger)</a> · <a href="../../asyncapi.json">asyncapi.json</a></p>
<asyncapi-viewer src="../../asyncapi.json" sidebar theme-toggle></asyncapi-viewer>
</body>
</html>
"""


@router.get("/")
@router.get("/docs")
async def to_documents() -> RedirectResponse:
    """Relative, so that it also holds behind a proxy that adds a prefix."""
    return RedirectResponse("docs/")


@router.get("/docs/events")
async def to_events() -> RedirectResponse:
    return RedirectResponse("events/")


@router.get("/docs/events/")
async def events_page() -> HTMLResponse:
    return HTMLResponse(
        EVENTS_PAGE, headers={"Content-Security-Policy": "default-src 'self' data: 'unsafe-inline'; script-src 'self'"}
    )


@router.get("/docs/events/asyncapi-viewer.js")
async def viewer() -> FileResponse:
    return FileResponse(VIEWER, media_type="text/javascript")


@router.get("/asyncapi.json")
async def asyncapi_json() -> Response:
    return Response(_asyncapi(), media_type="application/json")


@cache
def _asyncapi() -> bytes:
    return orjson.dumps(asyncapi())
