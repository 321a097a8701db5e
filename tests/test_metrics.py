"""Metrics, alerts and runbook name only metrics, alerts and log lines that exist."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml
from prometheus_client import REGISTRY

from chat_app import metrics
from chat_app.database import Database
from chat_app.errors import RateLimited
from chat_app.limits import Limits
from chat_app.main import create_api
from chat_app.settings import Settings
from tests.clients import DEADLINE, Person, SocketTransport
from tests.faults import no_commits
from tests.process import ROOT, Process
from tests.service import MakePerson, Service

MANIFESTS = ROOT / "manifests"
RUNBOOK = (MANIFESTS / "RUNBOOK.md").read_text()
GROUPS = yaml.safe_load((MANIFESTS / "components/monitoring/rules.yaml").read_text())["spec"]["groups"]
ALERTS: list[dict[str, Any]] = [alert for group in GROUPS for alert in group["rules"]]
# Metrics of Prometheus itself.
FOREIGN = {"up"}
METRIC = re.compile(r"\b(?:chat|http|process)_[a-z_]+\b|\bup\b")


@pytest.fixture
async def served(service: Service) -> str:
    async with httpx.AsyncClient(base_url=service.base) as client:
        return (await client.get("/metrics")).text


def names(served: str) -> set[str]:
    """All names that a rule may use, also those without a value yet."""
    found = FOREIGN.copy()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", served, re.MULTILINE):
        found |= {f"{name}_{part}" for part in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    return found


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alerts_use_existing_metrics_and_have_an_entry_in_the_runbook(alert: dict[str, Any], served: str) -> None:
    used = set(METRIC.findall(alert["expr"]))
    assert used, "an alert without a metric"
    assert used <= names(served)
    document, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert document == "manifests/RUNBOOK.md"
    assert anchor == alert["alert"].lower()
    entry = re.search(rf"^## {alert['alert']}\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert entry and "**Look**" in entry[1] and "**Do**" in entry[1]


def test_the_runbook_names_only_existing_metrics_and_log_lines(served: str) -> None:
    for_alerts = RUNBOOK.partition("\n# When no alert fires\n")[0]
    assert set(re.findall("^## (.*)$", for_alerts, re.MULTILINE)) == {alert["alert"] for alert in ALERTS}
    assert {name for name in METRIC.findall(RUNBOOK) if name not in ("chat_app", "up")} <= names(served)
    code = "".join(path.read_text() for path in Path(ROOT / "chat_app").rglob("*.py"))
    logged = set(re.findall(r'"event":"([^"(]+)"', RUNBOOK))
    assert logged
    assert logged <= set(re.findall(r'\b(?:log\.\w+|log_\w+|line)\(\s*"([^"]+)"', code))


def test_a_command_is_counted_by_its_name_and_code() -> None:
    for command, label, code in (("send_message", "send_message", "ok"), (None, "unknown", "unknown_command")):
        before = value("chat_command_seconds_count", command=label, code=code)
        metrics.observe_command(command, code, 0.002)
        assert value("chat_command_seconds_count", command=label, code=code) == before + 1


def test_a_limited_operation_is_counted_without_its_user() -> None:
    before = value("chat_rate_limited_total", action="lookup_user", by="user")
    limits = Limits(enabled=True)
    with pytest.raises(RateLimited):  # noqa: PT012  # one of them
        for _ in range(1000):
            limits.check("lookup_user", user="somebody")
    assert value("chat_rate_limited_total", action="lookup_user", by="user") == before + 1
    assert "somebody" not in str(list(REGISTRY.collect()))


async def test_open_connections_are_counted(
    process: Process, at: Callable[[str, Person], Person], make_person: MakePerson
) -> None:
    person = at(process.base, await make_person())

    async def opened() -> float:
        served = (await person.http.get("/metrics")).text
        return float(re.findall("^chat_connections (.*)$", served, re.MULTILINE)[0])

    before = await opened()
    socket = await person.connect()
    assert await opened() == before + 1
    await socket.close()
    async with asyncio.timeout(DEADLINE):
        while await opened() != before:  # noqa: ASYNC110  # no event to wait for
            await asyncio.sleep(0.01)


async def test_waiting_for_the_pool_is_counted(service: Service, service_settings: Settings) -> None:
    database = Database(service_settings.asyncpg_url, pool_size=2)
    metrics.watch_pool(database.engine.pool)
    try:
        assert (value("chat_database_pool_size"), value("chat_database_pool_in_use")) == (2, 0)
        async with database.engine.connect(), database.engine.connect():
            assert (value("chat_database_pool_in_use"), value("chat_database_pool_waiting")) == (2, 0)
            waiting = asyncio.create_task(database.engine.connect().start())  # type: ignore[arg-type]  # a coroutine
            async with asyncio.timeout(DEADLINE):
                while not value("chat_database_pool_waiting"):  # noqa: ASYNC110  # no event to wait for
                    await asyncio.sleep(0.01)
        await (await waiting).close()
        assert (value("chat_database_pool_in_use"), value("chat_database_pool_waiting")) == (0, 0)
    finally:
        metrics.watch_pool(service.database.engine.pool)
        await database.close()


async def test_requests_are_counted_by_route_and_status_but_never_by_address(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.base) as client:
        await client.get("/api/v1/users/00000000-0000-0000-0000-00000000beef")
        await client.get("/nowhere/79161234567")
        served = (await client.get("/metrics")).text
    assert 'http_requests_total{handler="/api/v1/users/{user_id}",method="GET",status="401"}' in served
    assert "beef" not in served
    assert "79161234567" not in served


async def test_the_requests_of_every_application_in_a_process_are_counted(service_settings: Settings) -> None:
    labels = {"handler": "/healthz", "method": "GET", "status": "200"}
    for _ in range(2):
        before = REGISTRY.get_sample_value("http_requests_total", labels) or 0
        transport = httpx.ASGITransport(create_api(service_settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            assert (await client.get("/healthz")).is_success
        assert REGISTRY.get_sample_value("http_requests_total", labels) == before + 1


COUNTED = {
    "send_message": ("chat_command_seconds_count", {"command": "send_message", "code": "ok"}),
    "refused": ("chat_command_seconds_count", {"command": "get_chat", "code": "chat_not_found"}),
    "commits": ("chat_commit_messages_count", {}),
    "delays": ("chat_delivery_seconds_count", {}),
    "delivered": ("chat_deliveries_total", {}),
    "lost": ("chat_resyncs_total", {"reason": "undelivered"}),
    "away": ("chat_database_unavailable_total", {}),
}


async def test_operations_and_deliveries_are_counted(
    service: Service, database: Database, make_person: MakePerson
) -> None:
    anna, boris = await make_person("Anna"), await make_person("Boris")
    transport = SocketTransport()
    chat = await transport.open_private_chat(anna, boris)
    await boris.open(chat["id"])
    before = {what: value(name, **labels) for what, (name, labels) in COUNTED.items()}
    await transport.send(anna, chat["id"])
    assert not (await transport.call(anna, "get_chat", chat_id=str(uuid4()))).ok
    counted = {what: value(name, **labels) - before[what] for what, (name, labels) in COUNTED.items()}
    assert counted["delivered"] >= 2, "both users get the list entry and one the message"
    for what in ("send_message", "refused", "commits", "delays"):
        assert counted[what] >= 1, what
    with no_commits(service.database, database):
        await transport.call(boris, "like_message", chat_id=chat["id"], seq=1)
    await boris.socket.wait_for("resync_required")
    for what in ("lost", "away"):
        name, labels = COUNTED[what]
        assert value(name, **labels) > before[what]
