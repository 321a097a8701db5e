"""Reads the prose, the samples and the fixed parts of the published documents from `content/`."""

from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import orjson

from chat_app.errors import ChatError

CONTENT = Path(__file__).parent / "content"


def read_json(name: str) -> dict[str, Any]:
    """An object from a JSON file."""
    return cast(dict[str, Any], orjson.loads((CONTENT / name).read_bytes()))


def describe(name: str, errors: Iterable[type[ChatError]]) -> str:
    """The text of a Markdown file, with a table of these errors by status."""
    rows = (
        f"| {error.status} {HTTPStatus(error.status).phrase} | `{error.code}` | {error.meaning} |\n"
        for error in sorted(errors, key=lambda error: error.status)
    )
    table = "| status | code | meaning |\n|---|---|---|\n" + "".join(rows)
    return (CONTENT / name).read_text().replace("{errors}", table)
