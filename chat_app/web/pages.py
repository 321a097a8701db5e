"""Serves both documents, and a page for each that needs nothing from the internet."""

from functools import cache

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from chat_app.web.asyncapi import asyncapi
from chat_app.web.texts import CONTENT

router = APIRouter(include_in_schema=False)

# Our scripts and styles, and those of the two viewers.
_VIEWERS = ["fastapi_offline", "asyncapi_viewer"]
STATIC = StaticFiles(directory=CONTENT / "static", packages=[(package, "static") for package in _VIEWERS])
ONLY_OWN = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}


@router.get("/")
@router.get("/docs")
@router.get("/docs/events")
async def to_page(request: Request) -> RedirectResponse:
    """Relative, so that it also holds behind a proxy that adds a prefix."""
    return RedirectResponse(f"{request.url.path.rpartition('/')[2] or 'docs'}/")


@router.get("/docs/")
async def docs_page() -> FileResponse:
    return FileResponse(CONTENT / "docs.html", headers=ONLY_OWN)


@router.get("/docs/events/")
async def events_page() -> FileResponse:
    return FileResponse(CONTENT / "events.html", headers=ONLY_OWN)


@router.get("/openapi.json")
async def openapi_json(request: Request) -> Response:
    return _document(request, orjson.dumps(request.app.openapi()))


@router.get("/asyncapi.json")
async def asyncapi_json(request: Request) -> Response:
    return _document(request, _asyncapi())


_asyncapi = cache(lambda: orjson.dumps(asyncapi()))


def _document(request: Request, json: bytes) -> Response:
    """The document with the address under which it was opened: its snippets and examples can be used as they are."""
    base = request.base_url
    address, host = str(base).rstrip("/").encode(), base.netloc.encode()
    content = json.replace(b"http://localhost:8000", address).replace(b'"localhost:8000"', b'"%b"' % host)
    return Response(content, media_type="application/json")
