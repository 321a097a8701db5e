"""Whether the process lives, whether it can work, and its figures."""

from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlmodel import SQLModel, select
from starlette.responses import PlainTextResponse

from chat_app.api.deps import DatabaseDep, SessionDep
from chat_app.api.problems import responses
from chat_app.errors import Unavailable
from chat_app.migrations import is_current

router = APIRouter(tags=["health"])


FIGURES = {"content": {"text/plain": {"example": "process_resident_memory_bytes 8.1e+07\n"}}}


class Health(SQLModel):
    status: Literal["ok"] = "ok"


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz", responses=responses(Unavailable))
async def readyz(session: SessionDep, database: DatabaseDep) -> Health:
    """The database answers and its schema is the one that this version needs."""
    await session.exec(select(1))
    if not await is_current(database):
        raise Unavailable("Migrations are missing.", retry_after=5)
    return Health()


@router.get("/metrics", response_class=PlainTextResponse, responses={200: FIGURES})
async def metrics() -> Response:
    """Figures for Prometheus."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
