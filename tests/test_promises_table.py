"""The table of the promises is true: the tests and the planted faults that it names are there, and none is left out."""

import ast
import re
from typing import NamedTuple

import pytest

from tests.chaos.planted import PLANTED
from tests.process import ROOT

TABLE = ROOT / ".github" / "PROMISES.md"
PROMISES = 27


class Row(NamedTuple):
    number: str
    promise: str
    tests: list[str]
    planted: list[str]


def rows() -> list[Row]:
    cells = [line.strip("|").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| P")]
    return [
        Row(number.strip(), promise, re.findall(r"`(tests/[^`]+)`", tests), re.findall(r"`([a-z-]+)`", planted))
        for number, promise, tests, planted in cells
    ]


def names_in(path: str) -> set[str]:
    """The classes and functions with tests in a file."""
    file = ROOT / path
    found = ast.walk(ast.parse(file.read_text())) if file.exists() else []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in found if isinstance(node, kinds) and re.match("test_|Test", node.name)}


def test_every_promise_has_its_row() -> None:
    assert [row.number for row in rows()] == [f"P{number}" for number in range(1, PROMISES + 1)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.number)
def test_every_promise_has_tests_that_exist(row: Row) -> None:
    assert row.tests
    missing = [test for test in row.tests if test.partition("::")[2] not in names_in(test.partition("::")[0])]
    assert missing == []


def test_the_planted_faults_are_those_that_exist() -> None:
    assert {name for row in rows() for name in row.planted} == PLANTED.keys()
