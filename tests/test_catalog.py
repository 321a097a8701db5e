"""Every operation, event and message type has a case in each test that goes through all of them, and in the demo data.

Each of those tests has a table of its own. Here one failure names all tables in which something new is missing.
"""

import re
from collections.abc import Container, Mapping
from pathlib import Path
from uuid import uuid4

import pytest

from chat_app.cli.seed import DEMO
from chat_app.events import CLIENT_EVENTS
from chat_app.live.commands import COMMANDS
from chat_app.models.messages import WITH_ATTACHMENT, MessageType
from tests.chaos.run import PARTS
from tests.chaos.test_run import READING as NO_PART
from tests.client_model import PASSING, ClientModel
from tests.clients import Person
from tests.live.test_snapshot import CASES, OPENING, PICTURED
from tests.live.test_snapshot import READING as READ_ONLY
from tests.operations import ROUTES, Scene, other_contents, valid_arguments
from tests.state_model import Model

NOBODY = Person("http://nowhere", uuid4(), uuid4(), "", "Nobody")
ARGUMENTS = valid_arguments(Scene(NOBODY, NOBODY, NOBODY, str(uuid4()), 1))
READING = {name for name, command in COMMANDS.items() if command.reads} | READ_ONLY
GETTING = {name for name, route in ROUTES.items() if route.method == "get"}
OVER_HTTP_ONLY = ROUTES.keys() - COMMANDS.keys()


def names_in(*paths: str) -> set[str]:
    """The words in files of the tests or of the service."""
    root = Path(__file__).parent.parent
    return {word for path in paths for word in re.findall(r"\w+", (root / path).read_text())}


IN_NODE = names_in("tests/node/chat.test.js", "tests/node/contract.js")
SENT = [case.arguments for case in CASES.values()]

# By the test, the names for which it has a case or needs none.
OF_OPERATIONS: Mapping[str, Container[str]] = {
    "tests/operations.py, for permissions and bad input": ARGUMENTS,
    "tests/live/test_snapshot.py": {case.operation for case in CASES.values()}
    | READING
    | OPENING
    | PICTURED
    | OVER_HTTP_ONLY,
    "tests/state_model.py": set(vars(Model)) | READING | OVER_HTTP_ONLY,
    "tests/test_state_machine.py": names_in("tests/test_state_machine.py") | READING | OVER_HTTP_ONLY,
    "tests/chaos": PARTS.keys() | READING | GETTING | NO_PART,
    "tests/node": IN_NODE | OVER_HTTP_ONLY,
}
OF_EVENTS: Mapping[str, Container[str]] = {
    "tests/client_model.py": PASSING
    | {name.removeprefix("_") for name in vars(ClientModel)}
    | {"resync_required", "session_revoked"},
    "tests/node": IN_NODE,
    "chat_app/web/content/events.md": names_in("chat_app/web/content/events.md"),
}
OF_TYPES: Mapping[str, Container[str]] = {
    "tests/operations.py, for permissions and bad input": {
        content["type"] for content in other_contents("send_message")
    }
    | {"text"},
    "tests/live/test_snapshot.py": {sent["type"] for sent in SENT if "type" in sent},
    "tests/chaos": names_in("tests/chaos/acts.py"),
    "tests/node": IN_NODE,
    # The demo data has no files.
    "chat_app/cli/demo.toml": WITH_ATTACHMENT
    | {
        message.get("type", "text")
        for chat in (*DEMO["private_chats"], *DEMO["groups"])
        for message in chat["messages"]
    },
}


def missing(name: str, cases: Mapping[str, Container[str]]) -> list[str]:
    return [place for place, names in cases.items() if name not in names]


@pytest.mark.parametrize("name", sorted(ROUTES.keys() | COMMANDS.keys()))
def test_an_operation_has_a_case_in_each_test(name: str) -> None:
    assert missing(name, OF_OPERATIONS) == []


@pytest.mark.parametrize("name", sorted(event.event for event in CLIENT_EVENTS))
def test_an_event_has_a_case_in_each_test(name: str) -> None:
    assert missing(name, OF_EVENTS) == []


@pytest.mark.parametrize("name", sorted(kind.value for kind in MessageType if kind is not MessageType.SYSTEM))
def test_a_message_type_has_a_case_in_each_test(name: str) -> None:
    assert missing(name, OF_TYPES) == []
