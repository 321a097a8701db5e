"""Reads the prose, the samples and the fixed parts of the published documents from `content/`."""

import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, cast

import orjson

from chat_app.errors import ChatError
from chat_app.limits import MOST_CONNECTIONS, RATES

CONTENT = Path(__file__).parent / "content"


def read_json(name: str) -> dict[str, Any]:
    """An object from a JSON file."""
    return cast(dict[str, Any], orjson.loads((CONTENT / name).read_bytes()))


def describe(name: str, errors: Iterable[type[ChatError]]) -> str:
    """The text of a Markdown file, with rows for these errors by status, and for all rates."""
    codes = (
        f"| {error.status} | `{error.code}` | {error.meaning} |"
        for error in sorted(errors, key=lambda error: error.status)
    )
    rates = (f"| `{action}` | {rates_of(action)} |" for action in dict.fromkeys(chain(*RATES.values())))
    connections = ", ".join(f"{most:,} of one {scope}" for scope, most in MOST_CONNECTIONS.items())
    text = (CONTENT / name).read_text().replace("{errors}", "\n".join(codes)).replace("{rates}", "\n".join(rates))
    return text.replace("{connections}", connections)


def rates_of(action: str) -> str:
    """The rates that bound an operation itself, in words; the empty text if there are none."""
    scopes = read_json("scopes.json")
    found = ((scope, rates[action]) for scope, rates in RATES.items() if action in rates)
    return "; ".join(f"{rate.times:,} in {rate.seconds:,} s {scopes[scope]}" for scope, rate in found)


def summarize(description: str) -> str:
    """The beginning of a docstring, which says what an operation does."""
    return " ".join(re.split(r"[.:;]\s", f"{description} ", maxsplit=1)[0].split())
