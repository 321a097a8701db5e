"""How a command is made from a route."""

from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from pydantic import ValidationError

from chat_app.api.deps import ChatIdPath, CurrentActor, Limit, SessionDep
from chat_app.api.operations import Operation
from chat_app.live.commands import derive
from chat_app.models.chats import ChatRead, ChatUpdate
from chat_app.models.sessions import Actor

SENT = {"chat_id": str(uuid4()), "title": None, "limit": 5}


class Caller(NamedTuple):
    """What a handler needs of a connection."""

    actor: Actor
    active_chat_id: None = None


async def paint_chat(
    db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, data: ChatUpdate, limit: Limit = 50
) -> ChatRead:
    """Nothing that exists."""
    received: Any = {"db": db, "actor": actor, "chat_id": chat_id, "data": data, "limit": limit}
    return received  # type: ignore[no-any-return]  # the test reads it


COMMAND = derive(Operation("/chats/{chat_id}/paint", paint_chat, responses={}))


async def test_the_function_gets_what_http_would_give_it() -> None:
    caller = Caller(Actor(uuid4(), uuid4()))
    received = await COMMAND.handler("the database", caller, COMMAND.input.validate_python(SENT))
    assert (received["db"], received["actor"], received["limit"]) == ("the database", caller.actor, 5)
    assert str(received["chat_id"]) == SENT["chat_id"]
    # The body alone, also for a use case that asks which fields were sent.
    assert type(received["data"]) is ChatUpdate
    assert received["data"].model_fields_set == {"title"}


@pytest.mark.parametrize("wrong", [{"limit": "5"}, {"limit": True}, {"limit": 101}, {"chat_id": 1}, {"colour": "red"}])
def test_its_argument_is_checked_as_json(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        COMMAND.input.validate_python(SENT | wrong)


def test_a_provider_that_only_http_has_fails_at_the_start() -> None:
    async def read_header(actor: CurrentActor) -> None: ...

    with pytest.raises(ValueError, match="unpack"):
        derive(Operation("/header", read_header, responses={}))
