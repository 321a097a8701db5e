"""Checks the alerts and the dashboard with promtool: `python -m tests.promtool`.

promtool reads plain files of rules. The alerts are in an object of the Prometheus Operator, and the queries of the
dashboard in JSON for Grafana.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parent.parent / "manifests/components/monitoring"
# Grafana's variables, with values.
VARIABLES = {"$__rate_interval": "1m", "$instance": "a"}

Json = dict[str, Any]


def alerts() -> list[Json]:
    """All rules."""
    spec = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
    return [rule for group in spec["groups"] for rule in group["rules"]]


def cases() -> list[Json]:
    """The series of the tests, each with what it is to fire. What is expected has the annotations of its rule."""
    by_name = {alert["alert"]: alert for alert in alerts()}
    found: list[Json] = yaml.safe_load((MONITORING / "rules_test.yaml").read_text())["tests"]
    for check in (check for case in found for check in case["alert_rule_test"]):
        for expected in check.setdefault("exp_alerts", []):
            annotations = by_name[check["alertname"]]["annotations"]
            expected["exp_annotations"] = {
                name: _filled(text, expected["exp_labels"]) for name, text in annotations.items()
            }
    return found


def _filled(text: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{ \$labels\.(\w+) }}", lambda label: labels[label[1]], text)


def panels() -> list[Json]:
    """The panels of the dashboard, without the titles of its rows."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """The queries of the dashboard, as Prometheus gets them."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    for name, value in VARIABLES.items():
        found = [query.replace(name, value) for query in found]
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {
            "rules.yaml": {"groups": [{"name": "chat", "rules": alerts()}]},
            "dashboard.yaml": {
                "groups": [
                    {
                        "name": "dashboard",
                        "rules": [{"record": f"query_{n}", "expr": query} for n, query in enumerate(queries())],
                    }
                ]
            },
            "rules_test.yaml": {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": cases()},
        }
        for file, content in files.items():
            (folder / file).write_text(yaml.safe_dump(content))
        commands = [("check", "rules", "rules.yaml", "dashboard.yaml"), ("test", "rules", "rules_test.yaml")]
        done = [
            subprocess.run(["promtool", *command], cwd=folder, check=False, capture_output=True, text=True)
            for command in commands
        ]
    failed = [each for each in done if each.returncode]
    sys.stderr.write("".join(each.stdout + each.stderr for each in failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
