"""The targets, commands, settings and files exist that the README and the pages for operators name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from chat_app.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", ".github/SECURITY.md", "manifests/README.md", "manifests/RUNBOOK.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestPage:
    def test_named_targets_of_make_exist(self, page: Path) -> None:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(re.findall(r"`?make ([a-z-]+)", _code(page))) <= targets

    def test_linked_files_exist(self, page: Path) -> None:
        links = re.findall(r"\]\(([^)#:]+)[^)]*\)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == []

    def test_applied_manifests_exist(self, page: Path) -> None:
        named = re.findall(r"kubectl \S*\s?apply -[kf] (\S+)", page.read_text())
        assert [path for path in named if not (ROOT / path).exists()] == []

    def test_named_settings_exist(self, page: Path) -> None:
        known = {f"CHAT_{name.upper()}" for name in Settings.model_fields}
        assert set(re.findall(r"CHAT_[A-Z_]+[A-Z]", page.read_text())) <= known


def test_every_setting_is_in_the_readme() -> None:
    known = {f"CHAT_{name.upper()}" for name in Settings.model_fields}
    assert known <= set(re.findall(r"CHAT_[A-Z_]+[A-Z]", PAGES[0].read_text()))


def test_every_target_is_in_the_readme() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets - {"help", "format", "clean"} <= set(re.findall(r"make ([a-z-]+)", PAGES[0].read_text()))


def test_the_commands_of_operators_exist() -> None:
    listed = re.search(r"### Look after it\n(.*?)\n#", PAGES[0].read_text(), re.DOTALL)
    assert listed
    named = set(re.findall(r"^\| `([a-z-]+)", listed[1], re.MULTILINE))
    shown = subprocess.run([sys.executable, "-m", "chat_app", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert len(named) >= 5
    assert [command for command in named if command not in shown.stdout] == []


def test_the_table_of_the_program_is_complete() -> None:
    section = PAGES[0].read_text().partition("## How it works")[2]
    named = {name.rstrip("/") for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in row.split("`")}
    program = ROOT / "chat_app"
    assert [name for name in named if name.strip() and not (program / name).exists()] == []
    assert {path.name for path in program.iterdir()} - {"__init__.py", "__pycache__"} <= named


def _code(page: Path) -> str:
    """The code blocks and inline code of a page."""
    text = page.read_text()
    return "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text))
