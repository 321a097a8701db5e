"""What a history is made of: operations, connections, times of membership, and chats as they were read at the end."""

from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from tests.chaos.history import Json, Row


class Floor(NamedTuple):
    """The greatest version or seq of a chat that anybody had seen at a time, and where."""

    value: int
    source: str


NOTHING = Floor(0, "nothing")


@dataclass(slots=True)
class Operation:
    """What a client asked, and what became of it: `ok`, `failed` (a definite error) or `unknown`."""

    id: int
    name: str
    args: Json
    t: float
    user: str
    session: str
    conn: str | None
    node: str
    via: str
    returned: float = inf
    outcome: str = "unknown"
    status: int = 0
    code: str | None = None
    data: Json = field(default_factory=dict)
    version_floor: Floor = NOTHING
    seq_floor: Floor = NOTHING

    @property
    def chat(self) -> str | None:
        return self.args.get("chat_id") or self.data.get("chat")

    @property
    def row(self) -> Row:
        return Row(*self.data["row"])

    def __str__(self) -> str:
        return f"op {self.id} {self.name} by {self.user} on {self.node} over {self.via}"


@dataclass(slots=True)
class Connection:
    """One Socket.IO connection with its events: (t, name, data)."""

    id: str
    user: str
    session: str
    node: str
    opened: float
    active: str | None = None
    closed: float = inf
    why: str = ""
    events: list[tuple[float, str, Json]] = field(default_factory=list)


class Span(NamedTuple):
    """A time that a user was in a chat, in versions and seqs; the end is that of the removal.

    Whether the history was shared is not always known: nothing before `visible_from` may be seen, and all from
    `surely_from` on.
    """

    joined_version: int
    joined_seq: int
    visible_from: int
    surely_from: float
    left_version: float = inf
    left_seq: float = inf


@dataclass(slots=True)
class Final:
    """A chat as one user read it from one node at the end."""

    fields: Json
    rows: dict[int, Row]
