"""Fixtures for tests over both transports: one real server on a free port, and its users."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from itertools import cycle, permutations
from typing import Any
from uuid import UUID

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

import chat_app.database
from chat_app.auth import SessionStrategy
from chat_app.cli.embedded import embedded_valkey
from chat_app.cli.serving import configuration
from chat_app.crud.sessions import open_session
from chat_app.database import Database
from chat_app.live.cluster import Cluster
from chat_app.live.engine.protocol import FastProtocol
from chat_app.live.engine.server import ChatServer
from chat_app.live.server import Live
from chat_app.main import Node, create_app
from chat_app.models import User
from chat_app.settings import Settings
from tests.clients import DEADLINE, HttpTransport, Person, SocketTransport, Transport, in_step, until
from tests.conftest import free_port

MakePerson = Callable[..., Awaitable[Person]]
MakeUser = Callable[..., Awaitable[User]]
Make = Callable[..., Awaitable[Any]]


class Service:
    """The running server, with its components for tests that break them on purpose.

    `patience`: the seconds that a transaction may wait, None as in production. On a busy machine the value of
    production is too short for other tests.
    """

    def __init__(self, settings: Settings, *, is_fallback: bool = False, patience: float | None = 60.0) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chat_app.database, "PATIENCE_SECONDS", patience or chat_app.database.PATIENCE_SECONDS)
            self.app = create_app(settings)
        self.base = f"http://{settings.host}:{settings.port}"
        # Each new person uses the next of these nodes.
        self.bases = [self.base]
        config = configuration(self.app)
        config.host, config.port, config.timeout_graceful_shutdown = settings.host, settings.port, 3
        # The fallback, served by the libraries alone, has to behave the same.
        config.ws = "websockets-sansio" if is_fallback else FastProtocol
        self.server = uvicorn.Server(config)

    @property
    def api(self) -> FastAPI:
        api: FastAPI = self.app.other_asgi_app  # type: ignore[attr-defined]  # socketio's wrapper is not typed
        return api

    @property
    def node(self) -> Node:
        node: Node = self.api.state.components
        return node

    @property
    def live(self) -> Live:
        return self.node.live

    @property
    def cluster(self) -> Cluster:
        assert self.node.cluster
        return self.node.cluster

    @property
    def socket_server(self) -> ChatServer:
        return self.node.server

    @property
    def database(self) -> Database:
        return self.node.database

    async def __aenter__(self) -> "Service":
        self.task = asyncio.create_task(self.server.serve())
        async with asyncio.timeout(2 * DEADLINE):
            while not self.server.started:
                assert not self.task.done(), "the server did not start"
                await asyncio.sleep(0.02)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.should_exit = True
        await self.task


@pytest.fixture(scope="session")
async def service(service_settings: Settings, pytestconfig: pytest.Config) -> AsyncIterator[Service]:
    is_fallback = pytestconfig.getoption("--fallback")
    if not pytestconfig.getoption("--three-nodes"):
        async with Service(service_settings, is_fallback=is_fallback) as running:
            yield running
        return
    given = pytestconfig.getoption("--valkey")
    with nullcontext(given) if given else embedded_valkey() as url:
        shared = service_settings.model_copy(update={"bus_url": SecretStr(url)})
        nodes = [Service(shared, is_fallback=is_fallback)]
        nodes += [Service(shared.model_copy(update={"port": free_port()}), is_fallback=is_fallback) for _ in range(2)]
        async with nodes[0], nodes[1], nodes[2]:
            nodes[0].bases = [node.base for node in nodes]
            in_step.append(lambda: _in_step(*nodes))
            yield nodes[0]
            in_step.clear()


async def _in_step(*services: Service) -> None:
    """Wait until each node has received and delivered everything the others have published."""
    clusters = [service.cluster for service in services]

    def is_in_step(receiver: Cluster, sender: Cluster) -> bool:
        known = receiver.bus._nodes.get(sender.bus.node)
        return known is not None and known.number >= sender.bus._number and not receiver.order._waiting

    await until(lambda: all(is_in_step(one, other) for one, other in permutations(clusters, 2)))


@asynccontextmanager
async def making_people(service: Service, make_user: MakeUser) -> AsyncIterator[MakePerson]:
    people: list[Person] = []
    bases = cycle(service.bases)

    async def make(name: str = "Somebody", *, connected: bool = False, again: Person | None = None) -> Person:
        user_id = UUID(again.id) if again else (await make_user(name=name)).id
        async with service.database.transaction() as db:
            opened = await open_session(db, user_id, "tests")
        token = SessionStrategy().tokens(opened).access_token
        person = Person(next(bases), opened.actor.id, opened.actor.session_id, token, name)
        people.append(person)
        if connected:
            await person.connect()
        return person

    yield make
    for person in people:
        await person.close()


@pytest.fixture
async def make_person(service: Service, make_user: MakeUser) -> AsyncIterator[MakePerson]:
    """`await make_person("Anna")`: a user with a token. `connected=True` also opens a connection. `again=anna` opens
    another session of the same user.
    """
    async with making_people(service, make_user) as make:
        yield make


@pytest.fixture(scope="module")
async def make_lasting_person(service: Service, make_user: MakeUser) -> AsyncIterator[MakePerson]:
    """As make_person, for users that all tests of a module share."""
    async with making_people(service, make_user) as make:
        yield make


@pytest.fixture(scope="session")
async def openapi(service: Service) -> dict[str, object]:
    async with httpx.AsyncClient(base_url=service.base) as client:
        document: dict[str, object] = (await client.get("/openapi.json")).json()
    return document


@pytest.fixture(params=["http", "socket"])
def transport(request: pytest.FixtureRequest, openapi: dict[str, object]) -> Transport:
    """A test with this fixture runs once over HTTP and once over Socket.IO."""
    return HttpTransport(openapi) if request.param == "http" else SocketTransport()
