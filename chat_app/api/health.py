"""Liveness, readiness and metrics."""

from threading import Event
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlmodel import Field, SQLModel
from starlette.responses import PlainTextResponse

from chat_app.api.deps import NodeDep
from chat_app.api.problems import responses
from chat_app.errors import Unavailable
from chat_app.metrics import registry
from chat_app.migrations import is_current

router = APIRouter(tags=["health"])
# Left out where the metrics have a port of their own.
metrics_router = APIRouter(tags=["health"])

# Set by the signal that ends the process.
ending = Event()

FIGURES = {"content": {"text/plain": {"example": "process_resident_memory_bytes 8.1e+07\n"}}}


class Health(SQLModel):
    status: Literal["ok"] = "ok"


class Readiness(Health):
    bus: Literal["up", "down"] | None = Field(description="The node works without it; null: there is only one node.")


@router.get("/healthz")
async def healthz() -> Health:
    """Check that the process answers."""
    return Health()


@router.get("/readyz", responses=responses(Unavailable))
async def readyz(node: NodeDep) -> Readiness:
    """Check that the service can work: without the bus it can.

    The database answers, its schema is the one that this version needs, and the process is not shutting down.
    """
    if ending.is_set():
        raise Unavailable("The process is shutting down.")
    if not await is_current(node.database):
        raise Unavailable("Migrations are missing.", retry_after=5)
    return Readiness(bus=None if node.bus is None else "up" if node.bus.is_up else "down")


# Not async, so it runs in a thread: to read the files of many workers takes a while.
@metrics_router.get("/metrics", response_class=PlainTextResponse, responses={200: FIGURES})
def metrics() -> Response:
    """Get metrics for Prometheus."""
    return Response(generate_latest(registry()), media_type=CONTENT_TYPE_LATEST)
