"""The table of the promises is complete and correct: all tests and planted faults that it names exist."""

import ast
import re
from typing import Any, NamedTuple

import pytest

from tests.planted import PLANTED, TESTS
from tests.process import ROOT
from tests.volume.launch import PLANTED as IN_VOLUME

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
    """The classes and functions with tests in a file, as pytest names them."""
    file = ROOT / path
    top = _tests(ast.parse(file.read_text()).body) if file.exists() else {}
    return {*top, *(f"{name}::{test}" for name, node in top.items() for test in _tests(node.body))}


def _tests(nodes: list[ast.stmt]) -> dict[str, Any]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name: node for node in nodes if isinstance(node, kinds) and re.match("test_|Test", node.name)}


def test_every_promise_has_its_row() -> None:
    assert [row.number for row in rows()] == [f"P{number}" for number in range(1, PROMISES + 1)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.number)
def test_every_promise_has_tests_that_exist(row: Row) -> None:
    assert row.tests
    missing = [test for test in row.tests if test.partition("::")[2] not in names_in(test.partition("::")[0])]
    assert missing == []


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.number)
def test_a_fault_is_planted_for_every_promise(row: Row) -> None:
    assert row.planted


def test_the_planted_faults_are_those_that_exist() -> None:
    assert {name for row in rows() for name in row.planted} == PLANTED.keys() | IN_VOLUME.keys()


@pytest.mark.parametrize("name", TESTS)
def test_the_test_that_fails_with_a_fault_is_one_of_its_promise(name: str) -> None:
    named = [test for row in rows() if name in row.planted for test in row.tests]
    assert [test for test in named if test.startswith(TESTS[name]) or TESTS[name].startswith(test)]
