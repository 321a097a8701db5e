"""The metrics and what they count. Alerts, dashboard and runbook name only metrics, alerts and log lines that exist."""

import asyncio
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import socketio
from prometheus_client import REGISTRY, Gauge

from chat_app import __version__
from chat_app.background import Background
from chat_app.database import Database
from chat_app.errors import RateLimited
from chat_app.limits import RATES, Limits
from chat_app.logs import as_chat_error
from chat_app.main import create_api
from chat_app.settings import Settings
from tests import promtool
from tests.accounts import Account
from tests.clients import DEADLINE, Person, SocketTransport, until
from tests.conftest import free_port
from tests.faults import no_commits
from tests.process import ROOT, Process
from tests.service import MakePerson, Service

RUNBOOK = (ROOT / "manifests/RUNBOOK.md").read_text()
ALERTS = promtool.alerts()
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


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_has_series_with_which_it_fires_and_others_with_which_it_does_not(alert: dict[str, Any]) -> None:
    checks = [check for case in promtool.cases() for check in case["alert_rule_test"]]
    fired = [bool(check["exp_alerts"]) for check in checks if check["alertname"] == alert["alert"]]
    assert set(fired) == {True, False}


def test_the_dashboard_shows_existing_metrics(served: str) -> None:
    assert {name for query in promtool.queries() for name in METRIC.findall(query)} <= names(served)
    assert not any("$" in query for query in promtool.queries()), "a variable that promtool does not know"
    assert len(promtool.panels()) >= 12
    assert all(panel["title"] and panel["targets"] for panel in promtool.panels())


def test_every_metric_of_the_service_is_on_the_dashboard_or_in_the_runbook(served: str) -> None:
    used = set(METRIC.findall("\n".join(promtool.queries()) + RUNBOOK))
    stems = {re.sub("_(bucket|count|sum)$", "", name) for name in used}
    own = {name for name in names(served) if name.startswith("chat_")}
    assert own
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in own} <= stems


def test_the_runbook_names_only_existing_metrics_and_log_lines(served: str) -> None:
    for_alerts = RUNBOOK.partition("\n# When no alert fires\n")[0]
    assert set(re.findall("^## (.*)$", for_alerts, re.MULTILINE)) == {alert["alert"] for alert in ALERTS}
    assert {name for name in METRIC.findall(RUNBOOK) if name not in ("chat_app", "chat_id", "up")} <= names(served)
    code = "".join(path.read_text() for path in Path(ROOT / "chat_app").rglob("*.py"))
    logged = set(re.findall(r'"event":"([^"(]+)"', RUNBOOK))
    assert logged
    assert logged <= set(re.findall(r'\b(?:log\.\w+|log_\w+|line)\(\s*"([^"]+)"', code))


def test_every_gauge_says_how_the_values_of_workers_are_combined() -> None:
    gauges = [gauge for gauge in REGISTRY._collector_to_names if isinstance(gauge, Gauge)]
    assert gauges
    assert [gauge._name for gauge in gauges if not gauge._multiprocess_mode.startswith("live")] == []


FRESH = """
from prometheus_client import generate_latest
import chat_app.main
print(generate_latest().decode())
"""


def test_counters_begin_at_0_so_that_the_first_event_is_an_increase() -> None:
    served = subprocess.run([sys.executable, "-c", FRESH], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    counters = re.findall(r"^# TYPE (chat_\S+) counter$", served, re.MULTILINE)
    assert len(counters) >= 10
    assert [name for name in counters if not re.search(rf"^{name}(?:{{.*}})? 0\.0$", served, re.MULTILINE)] == []
    code = "".join(path.read_text() for path in Path(ROOT / "chat_app").rglob("*.py"))
    reasons = set(re.findall(r'_ask_to_resync\([^"]*"(\w+)"|\bresync\([^"\n]*"(\w+)"', code))
    assert len(reasons) >= 4
    for reason in (one or other for one, other in reasons):
        assert f'chat_resyncs_total{{reason="{reason}"}} 0.0' in served
    for scope, rates in RATES.items():
        for action in rates:
            assert f'chat_rate_limited_total{{action="{action}",by="{scope}"}} 0.0' in served


def test_the_version_is_that_of_the_project(served: str) -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    assert f'chat_build_info{{revision="unknown",version="{__version__}"}} 1.0' in served


async def test_crashes_are_counted_in_requests_and_in_the_background() -> None:
    async def fail() -> None:
        raise RuntimeError

    before = {source: value("chat_crashes_total", source=source) for source in ("request", "background")}
    background = Background()
    background.spawn(fail())
    await background.finish()
    await asyncio.sleep(0)
    assert value("chat_crashes_total", source="background") == before["background"] + 1
    assert value("chat_crashes_total", source="request") == before["request"]
    as_chat_error(RuntimeError())
    assert value("chat_crashes_total", source="request") == before["request"] + 1


async def test_the_lag_of_the_event_loop_is_measured(service: Service) -> None:
    before = value("chat_event_loop_lag_seconds_sum")
    time.sleep(1.2)  # noqa: ASYNC251  # the loop has to be blocked
    await until(lambda: value("chat_event_loop_lag_seconds_sum") >= before + 0.5)


async def test_logins_are_counted_by_their_outcome(service: Service, database: Database) -> None:
    outcomes = [
        *(("password", "ok"), ("password", "bad_credentials"), ("code", "bad_code"), ("refresh", "ok")),
        *(("refresh", "not_authenticated"), ("connect", "ok"), ("connect", "not_authenticated")),
    ]
    before = [value("chat_logins_total", by=by, code=code) for by, code in outcomes]
    async with Account.at(service.base, database) as account:
        tokens = await account.registered()
        assert not (await account.log_in("another password")).ok
        assert not (await account.post("codes/login", {"phone": account.phone, "code": "000000"})).ok
        assert (await account.refresh(tokens)).ok
        assert not (await account.refresh({"refresh_token": "A" * 43})).ok
        for token in (tokens["access_token"], "forged"):
            client = socketio.AsyncClient(reconnection=False)
            try:
                await client.connect(service.base, auth={"token": token}, transports=["websocket"])
            except socketio.exceptions.ConnectionError:
                assert token == "forged"
            await client.disconnect()
    after = [value("chat_logins_total", by=by, code=code) for by, code in outcomes]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1] * len(outcomes)


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
    for expected in (before + 1, before):
        async with asyncio.timeout(DEADLINE):
            while await opened() != expected:  # noqa: ASYNC110  # no event to wait for
                await asyncio.sleep(0.01)
        await socket.close()


USES = ("changes", "reads", "sends", "idle")


async def test_connections_to_the_database_are_counted_by_their_use(service_settings: Settings) -> None:
    database = Database(service_settings.asyncpg_url, pool_size=2)

    def used() -> dict[str, float]:
        database.sample()
        return {use: value("chat_database_connections", use=use) for use in USES}

    def waiting(pool: str) -> float:
        database.sample()
        return value("chat_database_pool_waiting", pool=pool)

    async def read() -> None:
        async with database.reading():
            pass

    try:
        assert used() == dict.fromkeys(USES, 0)
        assert value("chat_database_pool_size") == 2
        async with database.engine.connect(), database.engine.connect(), database.reading(), database.reading():
            async with database.raw_transaction():
                assert used() == {"changes": 2, "reads": 2, "sends": 1, "idle": 0}
                assert (waiting("changes"), waiting("reads")) == (0, 0)
            assert used() == {"changes": 2, "reads": 2, "sends": 0, "idle": 1}
            change = asyncio.create_task(database.engine.connect().start())  # type: ignore[arg-type]  # a coroutine
            reading = asyncio.create_task(read())
            await until(lambda: waiting("changes") and waiting("reads"))
        await reading
        await (await change).close()
        assert used() == {"changes": 0, "reads": 0, "sends": 0, "idle": 5}
        assert (waiting("changes"), waiting("reads")) == (0, 0)
    finally:
        await database.close()


async def test_the_metrics_may_have_a_port_of_their_own(service_settings: Settings) -> None:
    port = free_port()
    process = Process(service_settings)
    process.environment |= {"CHAT_METRICS_PORT": str(port), "CHAT_REVISION": "5d8b534e"}
    await process.start()
    try:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{port}/metrics")
            assert answer.status_code == 200
            assert f'chat_build_info{{revision="5d8b534e",version="{__version__}"}} 1.0' in answer.text
            assert "process_resident_memory_bytes" in answer.text
            assert (await client.get(f"{process.base}/metrics")).status_code == 404
            assert "/metrics" not in (await client.get(f"{process.base}/openapi.json")).json()["paths"]
        second = Process(service_settings)
        second.environment |= {"CHAT_METRICS_PORT": str(port)}
        refusal = f"port {port}: Address already in use. Set CHAT_HOST or CHAT_METRICS_PORT"
        with pytest.raises(AssertionError, match=refusal):
            await second.start()
        await second.kill()
    finally:
        await process.stop()


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
