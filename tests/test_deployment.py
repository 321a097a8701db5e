"""The Dockerfile, compose.yaml, the manifests and the workflows agree with each other and with the settings."""

import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from chat_app.settings import Settings
from tests.process import ROOT
from tests.replicas import interpolate
from tests.system.programs import PROGRAMS

Json = dict[str, Any]

COMPOSE: Json = json.loads(interpolate(json.dumps(yaml.safe_load((ROOT / "compose.yaml").read_text()))))
MANIFESTS = [path for path in (ROOT / "manifests").rglob("*.yaml") if path.name != "kustomization.yaml"]
WORKFLOWS = [*(ROOT / ".github/workflows").glob("*.yml")]
METRICS_PORT = 9000
# After the word that names it in the Dockerfile, in YAML and in options, and in commands.
IMAGE = re.compile(r"(?:^FROM |\bimage[:=] *|\bgenerator=|\b(?=anchore/|postgres:\d))([a-z][\w./:-]+)", re.MULTILINE)
# Images that are built here.
OURS = {"chat-app", "chat-app:local", "chat-proxy:local"}


def objects() -> list[Json]:
    """The Kubernetes objects of the manifests."""
    return [found for path in MANIFESTS for found in yaml.safe_load_all(path.read_text()) if "kind" in found]


def named(kind: str, name: str) -> Json:
    (found,) = [found for found in objects() if (found["kind"], found["metadata"]["name"]) == (kind, name)]
    return found


def nodes(node: Any) -> Iterator[Json]:
    """Every object of a document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def production_settings() -> dict[str, str]:
    """The settings of the overlay, and of the base below it."""
    literals: list[str] = []
    for folder in ("base", "overlays/production"):
        document = yaml.safe_load((ROOT / "manifests" / folder / "kustomization.yaml").read_text())
        literals += next(made["literals"] for made in document["configMapGenerator"] if made["name"] == "chat-settings")
    return dict(literal.split("=", 1) for literal in literals)


def images() -> dict[str, set[str]]:
    """The foreign images with the files that name them."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in [ROOT / "Dockerfile", ROOT / "compose.yaml", ROOT / "manifests/RUNBOOK.md", *MANIFESTS, *WORKFLOWS]:
        for image in IMAGE.findall(interpolate(path.read_text())):
            found[image].add(path.name)
    stages = re.findall(r" AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return {image: files for image, files in found.items() if image not in OURS.union(stages)}


def test_every_image_has_the_tag_of_a_patch_and_only_one() -> None:
    files = images()
    names = [image.partition(":")[0] for image in files]
    assert {"python", "postgres", "valkey/valkey", "caddy", "amazon/aws-cli", "moby/buildkit"} <= set(names)
    assert len(names) == len(set(names)), f"two tags of one image: {files}"
    for image in files:
        # A version of PostgreSQL has two numbers.
        version = r"\d+\.\d+" if image.startswith("postgres:") else r"v?\d+\.\d+\.\d+"
        assert re.fullmatch(rf"[^:]+:{version}(-[\w-]+)?", image), f"{image} in {files[image]}"


@pytest.mark.parametrize("name", COMPOSE["services"])
class TestComposeService:
    def test_its_output_does_not_fill_the_disk(self, name: str) -> None:
        assert {"max-size", "max-file"} <= COMPOSE["services"][name]["logging"]["options"].keys()

    def test_it_has_an_image(self, name: str) -> None:
        assert COMPOSE["services"][name]["image"]

    def test_its_networks_are_declared(self, name: str) -> None:
        # podman-compose knows no network that is not.
        assert set(COMPOSE["services"][name].get("networks", ["default"])) <= COMPOSE["networks"].keys()


def test_each_image_of_compose_is_built_once() -> None:
    built = [service["image"] for service in COMPOSE["services"].values() if "build" in service]
    assert sorted(built) == ["chat-app:local", "chat-proxy:local"]


def test_compose_trusts_its_own_network_alone() -> None:
    (subnet,) = COMPOSE["networks"]["default"]["ipam"]["config"]
    for name in ("app-1", "app-2"):
        assert COMPOSE["services"][name]["environment"]["CHAT_TRUSTED_PROXIES"] == subnet["subnet"]
    assert COMPOSE["services"]["dev"]["environment"]["CHAT_TRUSTED_PROXIES"] == ""
    assert unsafe(CHAT_TRUSTED_PROXIES=subnet["subnet"]) == []


def test_production_accepts_the_settings_of_its_overlay() -> None:
    settings = production_settings()
    assert settings["CHAT_ENV"] == "production"
    assert unsafe(**{name: value for name, value in settings.items() if name.startswith("CHAT_")}) == []


def unsafe(**settings: str) -> list[str]:
    known = {name.removeprefix("CHAT_").lower(): value for name, value in settings.items()}
    secrets = {"secret": SecretStr("0123456789abcdef" * 4), "database_url": SecretStr("postgresql://chat@db/chat")}
    found = {name: value for name, value in known.items() if name in Settings.model_fields}
    return Settings(**{"env": "production", **secrets, **found}).unsafe()


def test_only_the_monitoring_reaches_the_port_of_the_metrics() -> None:
    assert production_settings()["CHAT_METRICS_PORT"] == str(METRICS_PORT)
    (container,) = named("Deployment", "chat")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8000, "metrics": METRICS_PORT}
    assert [end["port"] for end in named("PodMonitor", "chat")["spec"]["podMetricsEndpoints"]] == ["metrics"]

    public, monitoring = named("NetworkPolicy", "chat-servers")["spec"]["ingress"]
    assert public == {"ports": [{"port": "http"}]}
    assert monitoring["ports"] == [{"port": "metrics"}] and monitoring["from"]
    assert "ingress" not in named("NetworkPolicy", "chat")["spec"]


def test_the_network_policy_knows_every_pod_of_the_service() -> None:
    (expression,) = named("NetworkPolicy", "chat")["spec"]["podSelector"]["matchExpressions"]
    pods = [found for found in nodes(objects()) if "chat-secrets" in str(found.get("containers"))]
    labels = [found["metadata"]["labels"] for found in nodes(objects()) if found.get("spec") in pods]
    components = {found["app.kubernetes.io/component"] for found in labels}
    assert components == {"server", "migration", "sweep", "backup"} == set(expression["values"])


@pytest.mark.parametrize("pod", [found for found in nodes(objects()) if "containers" in found], ids=str)
def test_every_pod_is_allowed_in_a_restricted_namespace(pod: Json) -> None:
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    for container in pod["containers"] + pod.get("initContainers", []):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] and context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("page", ["README.md", "RUNBOOK.md"])
def test_commands_for_logs_read_all_pods(page: str) -> None:
    for line in re.findall(r"kubectl -n chat logs[^`\n]*", (ROOT / "manifests" / page).read_text()):
        # A selector without --tail shows ten lines of each pod.
        of_all = "-l app.kubernetes.io/component=server" in line and "--tail" in line
        in_loop = '"$pod"' in line
        assert of_all or in_loop or "job/" in line or "--previous" in line, line


class TestBackup:
    """The script of the CronJob, on the database of the tests."""

    def test_a_dump_is_complete_or_has_another_name(self, empty_url: str, tmp_path: Path) -> None:
        assert "+asyncpg:" in empty_url, "pg_dump must not know this URL for this test to mean anything"
        kept = tmp_path / "media"
        for path in (kept, tmp_path / "chat-20200101T000000Z.dump", tmp_path / "chat-20200102T000000Z.dump.part"):
            subprocess.run(["touch", "--date=15 days ago", path], check=True)
        assert self.run(empty_url, tmp_path).returncode == 0
        (dump,) = tmp_path.glob("chat-*")
        assert dump.suffix == ".dump" and dump.read_bytes().startswith(b"PGDMP")
        assert kept.exists()

        failed = self.run("postgresql://nobody@127.0.0.1:9/nothing", tmp_path)
        assert failed.returncode != 0
        assert [path for path in tmp_path.glob("*.dump") if path != dump] == []

    def run(self, url: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
        job = named("CronJob", "chat-backup")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = job["initContainers"]
        words = [word.replace("/backups", str(folder)) for word in (*container["command"], *container["args"])]
        environment = {"PATH": f"{PROGRAMS}:/usr/bin:/bin", "CHAT_DATABASE_URL": url}
        return subprocess.run(words, env=environment, capture_output=True, check=False)
