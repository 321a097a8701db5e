"""The lists of CONTRIBUTING.md name exactly the files that contain their examples."""

import re

import pytest

from tests.process import ROOT

PAGE = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
# The example in the files of each list.
EXAMPLES = {
    "Add an operation": r"\bpin_chat\b",
    "Add an event": r'\bTypingChanged\b|\btyping_changed\b|"typing":',
    "Add a message type": r'\bLocationCreate\b|"location"|"latitude"',
    "Add a personal setting": r"\bmuted_until\b",
}
PARTS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
SOURCES = ("*.py", "*.json", "*.md", "*.toml", "*.sql")


def listed(part: str) -> set[str]:
    """The files in the first column of a list."""
    rows = re.findall(r"^\| (`.*?) \|", PARTS[part], re.MULTILINE)
    return {file for row in rows for file in re.findall(r"`([^`]+)`", row)}


def contains(file: str, example: str) -> bool:
    return bool(re.search(EXAMPLES[example], (ROOT / file).read_text()))


@pytest.mark.parametrize("example", EXAMPLES)
class TestList:
    def test_it_names_every_file_of_the_program_with_the_example(self, example: str) -> None:
        sources = {path for pattern in SOURCES for path in (ROOT / "chat_app").rglob(pattern)}
        files = {str(path.relative_to(ROOT)) for path in sources}
        assert {file for file in listed(example) if file.startswith("chat_app/")} == {
            file for file in files if contains(file, example)
        }

    def test_every_other_file_has_the_example(self, example: str) -> None:
        others = {file for file in listed(example) if not file.startswith("chat_app/")}
        assert len(others) >= 5
        assert [file for file in others if not contains(file, example)] == []


def test_the_ten_words_are_words_of_the_program() -> None:
    words = re.findall(r"^\| ([a-z ]+) \| [A-Z].*\. \|$", PARTS["Words"], re.MULTILINE)
    code = " ".join(path.read_text().lower() for path in (ROOT / "chat_app").rglob("*.py"))
    assert len(words) == 10
    assert [word for word in words if word not in code] == []


def test_the_files_and_functions_of_the_picture_exist() -> None:
    picture = PARTS["The life of a message"]
    steps = re.findall(r"((?:\w+/)?\w+\.py)(?:  (?:\w+\.)?(\w+))?", picture)
    assert len(steps) >= 8
    for file, function in steps:
        code = (ROOT / "chat_app" / file).read_text()
        assert not function or function.isupper() or re.search(rf"def {function}\b", code), (file, function)
