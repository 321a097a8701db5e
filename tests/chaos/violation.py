"""What a rule finds."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.chaos.index import History


class Violation(NamedTuple):
    """`kind`: one word that names the broken promise. `evidence`: the ids, seqs and clients that show it."""

    kind: str
    promise: str
    evidence: str


Rule = Callable[[History], Iterator[Violation]]
