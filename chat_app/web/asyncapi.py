"""The AsyncAPI 3.0 document of the Socket.IO contract, made from the commands and events that the service runs on."""

from collections.abc import Iterator
from inspect import getdoc
from typing import Any

from pydantic import TypeAdapter
from sqlmodel import SQLModel

from chat_app.errors import ChatError, NotAuthenticated, SessionRevoked, TokenExpired, TooManyConnections, all_errors
from chat_app.events import CLIENT_EVENTS
from chat_app.live.commands import ALWAYS, COMMANDS, ROUTES, Command, Errors
from chat_app.live.server import Handshake
from chat_app.web.examples import Schema, examples
from chat_app.web.openapi import REFERENCE, REQUEST_ID, VERSION, Problem, problem_example, require_all
from chat_app.web.texts import describe, rates_of, read_json

NOTHING: Schema = {"type": "null"}
CONNECT_ERRORS: Errors = ALWAYS | {NotAuthenticated, TokenExpired, SessionRevoked, TooManyConnections}


class ConnectError(SQLModel):
    """The connection was refused; the client does not try again by itself."""

    message: str
    data: Problem


# What the server sends on its own.
SENT: dict[str, type[SQLModel]] = {"connect_error": ConnectError, **{event.event: event for event in CLIENT_EVENTS}}


def asyncapi() -> dict[str, Any]:
    """The whole document, the same at each call."""
    payloads, schemas = _payloads()
    samples = {name: examples(payload, schemas) for name, payload in payloads.items()}
    samples["connect_error"] = {
        error.code: {"message": error.meaning, "data": problem_example(error)} for error in _ordered(CONNECT_ERRORS)
    }
    for command in COMMANDS.values():
        name = f"{command.name}_answer"
        payloads[name] = _answer(command, payloads.get(name, NOTHING))
        done = {"status": command.statuses[0], "data": samples.get(name, {}).get("example"), "request_id": REQUEST_ID}
        refused = {error.code: {"ok": False, "error": problem_example(error)} for error in _ordered(command.errors)}
        samples[name] = {"done": {"ok": True} | done, **refused}
    document = read_json("asyncapi.json")
    document["info"] |= {"version": VERSION, "description": describe("events.md", all_errors())}
    document["channels"]["chat"]["messages"] = {name: {"$ref": f"#/components/messages/{name}"} for name in payloads}
    document["operations"] = dict(_operations())
    messages = document["components"]["messages"] = {}
    for name, payload in payloads.items():
        shown = [{"name": kind, "payload": sample} for kind, sample in samples[name].items()]
        messages[name] = {"name": name, "title": name, "payload": payload, "examples": shown}
    document["components"]["schemas"] = schemas
    _simplify(document)
    return document


def _payloads() -> tuple[dict[str, Schema], dict[str, Schema]]:
    """The schema of every argument, answer and event by the name of its message, and the schemas they refer to."""
    commands = COMMANDS.values()
    received = {"connect": Handshake, **{command.name: command.argument for command in commands}}
    sent = SENT | {f"{command.name}_answer": command.output for command in commands if command.output}
    parts: list[tuple[str, Any, TypeAdapter[Any]]] = [
        *((name, "validation", TypeAdapter(model)) for name, model in received.items()),
        *((name, "serialization", TypeAdapter(model)) for name, model in sent.items()),
    ]
    found, definitions = TypeAdapter.json_schemas(parts, ref_template=REFERENCE)
    schemas: dict[str, Schema] = definitions["$defs"]
    require_all(schemas)
    return {name: schema for (name, _), schema in found.items()}, schemas


def _answer(command: Command, data: Schema) -> Schema:
    """The acknowledgement: done or refused."""
    schema = read_json("answer.json")
    may_be_empty = 204 in command.statuses and command.output
    done = {"status": {"enum": list(command.statuses)}, "data": {"anyOf": [data, NOTHING]} if may_be_empty else data}
    schema["oneOf"][0]["properties"] |= done
    refused = schema["oneOf"][1]["properties"]["error"]
    refused["properties"]["code"]["enum"] = [error.code for error in _ordered(command.errors)]
    return schema


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "connect", _send("connect", getdoc(Handshake) or "", ("ready", "connect_error"), CONNECT_ERRORS)
    for command in COMMANDS.values():
        yield command.name, _send(command.name, command.description, (f"{command.name}_answer",), command.errors)
    for name, model in SENT.items():
        yield name, _operation("receive", name, "events", getdoc(model) or "")


def _send(name: str, description: str, answers: tuple[str, ...], errors: Errors) -> dict[str, Any]:
    # Of what has no route, the connection and typing.
    tag = str(ROUTES[name].tags[0]) if name in ROUTES else "chats"
    codes = ", ".join(f"`{error.code}`" for error in _ordered(errors))
    rates = rates_of(name)
    described = f"{description}\n\nErrors: {codes}." + (f"\n\nAt most {rates}." if rates else "")
    return _operation("send", name, tag, described) | {"reply": _refer(*answers)}


def _operation(action: str, name: str, tag: str, description: str) -> dict[str, Any]:
    texts = {"title": name, "tags": [{"name": tag}], "description": description}
    return {"action": action, **texts, **_refer(name)}


def _refer(*messages: str) -> dict[str, Any]:
    references = [{"$ref": f"#/channels/chat/messages/{name}"} for name in messages]
    return {"channel": {"$ref": "#/channels/chat"}, "messages": references}


def _ordered(found: Errors) -> list[type[ChatError]]:
    """Errors in the order of the tree."""
    return [error for error in all_errors() if error in found]


def _simplify(node: Any) -> None:
    """Use AsyncAPI's short forms of discriminators and nullable types."""
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _simplify(child)
    match node:
        case {"discriminator": {"propertyName": name}}:
            node["discriminator"] = name
        case {"anyOf": [{"type": str(kind), **rest}, {"type": "null"}]}:
            del node["anyOf"]
            node |= {**rest, "type": [kind, "null"]}
