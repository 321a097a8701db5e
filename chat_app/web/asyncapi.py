"""The AsyncAPI 3.0 document of the Socket.IO contract, made from the commands and events that the service runs on."""

from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter
from sqlmodel import SQLModel

from chat_app.errors import TokenExpired, TooManyConnections, all_errors
from chat_app.events import CLIENT_EVENTS
from chat_app.live.commands import COMMANDS, Command
from chat_app.live.server import Handshake
from chat_app.models.problems import Problem
from chat_app.web import texts
from chat_app.web.examples import Schema, examples
from chat_app.web.openapi import REFERENCE, REQUEST_ID, VERSION, problem_example, require_all


class ConnectError(SQLModel):
    """The connection was refused; the client does not try again by itself."""

    message: str
    data: Problem


NOTHING: Schema = {"type": "null"}
HEAD = {
    "asyncapi": "3.0.0",
    "info": {
        "title": "Chat events",
        "version": VERSION,
        "description": texts.with_errors(texts.EVENTS, all_errors()),
    },
    "defaultContentType": "application/json",
    "servers": {
        "chat": {
            "host": "{host}",
            "pathname": "/socket.io",
            "protocol": "socket.io",
            "protocolVersion": "5",
            "description": "The same address as HTTP.",
            "variables": {"host": {"default": "localhost:8000"}},
            "security": [{"$ref": "#/components/securitySchemes/token"}],
        }
    },
}
# What comes without being asked for.
TOLD: dict[str, type[SQLModel]] = {"connect_error": ConnectError, **{event.event: event for event in CLIENT_EVENTS}}


def asyncapi() -> dict[str, Any]:
    """The whole document, the same at each call."""
    payloads, schemas = _payloads()
    messages = dict(_messages(payloads, schemas))
    document = {
        **HEAD,
        "channels": {
            "chat": {
                "address": "/",
                "title": "The default namespace",
                "servers": [{"$ref": "#/servers/chat"}],
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": dict(_operations()),
        "components": {
            "messages": messages,
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }
    _simplify(document)
    return document


def _payloads() -> tuple[dict[str, Schema], dict[str, Schema]]:
    """The schema of every argument, answer and event by the name of its message, and the schemas they refer to."""
    commands = COMMANDS.values()
    parts: list[tuple[str, Any, TypeAdapter[Any]]] = [
        ("connect", "validation", TypeAdapter(Handshake)),
        *((name, "serialization", TypeAdapter(model)) for name, model in TOLD.items()),
        *((command.name, "validation", command.input) for command in commands),
        *(
            (f"{command.name}_answer", "serialization", TypeAdapter(command.output))
            for command in commands
            if command.output
        ),
    ]
    found, definitions = TypeAdapter.json_schemas(parts, ref_template=REFERENCE)
    schemas: dict[str, Schema] = definitions["$defs"]
    require_all(schemas)
    return {name: schema for (name, _), schema in found.items()}, schemas


def _messages(payloads: dict[str, Schema], schemas: dict[str, Schema]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("connect", *(event.event for event in CLIENT_EVENTS)):
        yield name, _message(name, payloads[name], examples(payloads[name], schemas))
    refusals = [problem_example(error) for error in (TokenExpired, TooManyConnections)]
    refused = {refusal["code"]: {"message": refusal["detail"], "data": refusal} for refusal in refusals}
    yield "connect_error", _message("connect_error", payloads["connect_error"], refused)
    for command in COMMANDS.values():
        name, argument = command.name, payloads[command.name]
        yield name, _message(name, argument, examples(argument, schemas))
        name = f"{name}_answer"
        yield name, _message(name, *_answer(command, payloads.get(name, NOTHING), schemas))


def _meaning(model: type[SQLModel]) -> str:
    return (model.__doc__ or "").strip()


def _message(name: str, payload: Schema, samples: dict[str, Any]) -> dict[str, Any]:
    shown = [{"name": kind, "payload": sample} for kind, sample in samples.items()]
    return {"name": name, "title": name, "payload": payload, "examples": shown}


def _answer(command: Command, data: Schema, schemas: dict[str, Schema]) -> tuple[Schema, dict[str, Any]]:
    """The acknowledgement, with an example of the success and of each error."""
    if 204 in command.statuses and command.output:
        data = {"anyOf": [data, NOTHING]}
    properties = {
        "done": {
            "ok": {"const": True},
            "status": {"enum": list(command.statuses)},
            "data": data,
            "request_id": {"type": "string"},
        },
        "refused": {"ok": {"const": False}, "error": {"$ref": REFERENCE.format(model="Problem")}},
    }
    schema = {
        "oneOf": [
            {"title": title, "type": "object", "properties": fields, "required": list(fields)}
            for title, fields in properties.items()
        ]
    }
    sample = examples(data, schemas)["example"]
    done = {"ok": True, "status": command.statuses[0], "data": sample, "request_id": REQUEST_ID}
    errors = [error for error in all_errors() if error in command.errors]
    return schema, {"done": done} | {e.code: {"ok": False, "error": problem_example(e)} for e in errors}


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "connect", _operation("send", "connect", _meaning(Handshake), ["ready", "connect_error"])
    for command in COMMANDS.values():
        yield command.name, _operation("send", command.name, command.description, [f"{command.name}_answer"])
    for name, model in TOLD.items():
        yield name, _operation("receive", name, _meaning(model), [])


def _operation(action: str, name: str, description: str, answers: list[str]) -> dict[str, Any]:
    def refer(names: list[str]) -> dict[str, Any]:
        references = [{"$ref": f"#/channels/chat/messages/{name}"} for name in names]
        return {"channel": {"$ref": "#/channels/chat"}, "messages": references}

    made = {"action": action, "title": name, "description": description, **refer([name])}
    return {**made, "reply": refer(answers)} if answers else made


def _simplify(node: Any) -> None:
    """Shorter where AsyncAPI can say it shorter: the field that tells a union's kinds apart, and what may be null."""
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _simplify(child)
    match node:
        case {"discriminator": {"propertyName": name}}:
            node["discriminator"] = name
        case {"anyOf": [{"type": str(kind), **rest}, {"type": "null"}]}:
            del node["anyOf"]
            node |= {**rest, "type": [kind, "null"]}
