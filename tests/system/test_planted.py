"""A test of each promise fails with the fault that is planted for it, and not for another reason."""

import re
import subprocess
import sys

import pytest

from tests.planted import PLANTED, TESTS
from tests.process import ROOT

pytestmark = pytest.mark.timeout(600)


def test_each_fault_has_a_test() -> None:
    assert TESTS.keys() == PLANTED.keys()


@pytest.mark.parametrize("name", PLANTED)
def test_a_test_of_the_promise_fails(name: str) -> None:
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "", "-x", "--planted", name, TESTS[name])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = re.search(r"^E +(assert|AssertionError|TimeoutError|Failed)\b.*", done.stdout, re.MULTILINE)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED and found, done.stdout + done.stderr
    assert re.search(r"\d failed\b(?!.* error)", done.stdout.splitlines()[-1]), done.stdout
    print(f"{name}: {found[0]}")  # noqa: T201  # -rP shows what failed
