"""What `/openapi.json` says beyond what FastAPI derives from the routes: texts, errors, examples and the events."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from chat_app import errors
from chat_app.api.problems import PROBLEM, errors_of, responses
from chat_app.errors import ChatError
from chat_app.events import CLIENT_EVENTS
from chat_app.models.problems import Problem
from chat_app.web import texts
from chat_app.web.examples import VALUES, Schema, examples, prefill

# Of the contract, not of a release: it moves when clients can see a difference.
VERSION = "1.0.0"
FORM = "Body_"  # what FastAPI calls the schema of a form
REFERENCE = "#/components/schemas/{model}"
REQUEST_ID = "6f1f3a0d9b114c8e9f575b0d3f4e2c1a"
RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}

HTTP_ERRORS = [error for error in errors.all_errors() if error is not errors.UnknownCommand]
TAGS = {
    "auth": "Register, log in, stay logged in, log out. Everything else needs the access token.",
    "users": "Profiles: one's own and those of others.",
    "chats": "The list of chats; opening and creating them; what is personal about each; the active one.",
    "members": "Who is in a chat: add, remove, leave.",
    "messages": "Send, read, edit, delete, like; what was read and what was missed.",
    "attachments": "Files that messages carry: upload first, then send.",
    "health": "For those who operate the service.",
}

# Passed to FastAPI whole.
ABOUT: dict[str, Any] = {
    "title": "Chat",
    "summary": "A chat backend: phone registration, private and group chats, live events.",
    "description": texts.with_errors(texts.HTTP, HTTP_ERRORS),
    "version": VERSION,
    "openapi_tags": [{"name": name, "description": description} for name, description in TAGS.items()],
    "swagger_ui_parameters": {
        "defaultModelsExpandDepth": 0,
        "displayRequestDuration": True,
        "filter": True,
        "persistAuthorization": True,
        "tryItOutEnabled": True,
    },
    # Short names for generated clients, equal to those of the commands.
    "generate_unique_id_function": lambda route: route.name,
}


def problem_example(error: type[ChatError]) -> dict[str, Any]:
    """The error as a client sees it."""
    if error is errors.InvalidInput:
        wrong = ("/text", "string_too_short", "String should have at least 1 character")
        return errors.InvalidInput.at(*wrong).problem(REQUEST_ID)
    return error().problem(REQUEST_ID)


def customize(api: FastAPI) -> None:
    """Make `/openapi.json` the document below."""
    api.openapi = lambda: document(api)  # type: ignore[method-assign]  # the way that FastAPI documents


def document(api: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; made once, then kept."""
    if api.openapi_schema is None:
        api.openapi_schema = _completed(FastAPI.openapi(api))
    return api.openapi_schema


def require_all(schemas: dict[str, Schema]) -> None:
    """What the service sends is always there, also where the class has a default."""
    for name, schema in schemas.items():
        is_input = schema.get("additionalProperties") is False or name.startswith(FORM)
        if "properties" in schema and not is_input and name != Problem.__name__:
            schema["required"] = list(schema["properties"])
            for field in schema["properties"].values():
                field.pop("default", None)


def _completed(made: dict[str, Any]) -> dict[str, Any]:
    components = made.setdefault("components", {})
    components["examples"] = {error.code: {"value": problem_example(error)} for error in errors.all_errors()}
    schemas: dict[str, Schema] = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    models: list[type[BaseModel]] = [Problem, *CLIENT_EVENTS]
    sent: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "serialization") for model in models]
    schemas |= models_json_schema(sent, ref_template=REFERENCE)[1]["$defs"]
    require_all(schemas)
    for form in [schema for name, schema in schemas.items() if name.startswith(FORM)]:
        prefill(form)
    for path, methods in made["paths"].items():
        for operation in methods.values():
            _add_errors(path, operation)
    made["webhooks"] = {event.event: {"post": _webhook(event)} for event in CLIENT_EVENTS}
    for operation in (*_operations(made["paths"]), *_operations(made["webhooks"])):
        _add_examples(operation, schemas)
    return made


def _operations(paths: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in paths.values():
        yield from path.values()


def _add_errors(path: str, operation: dict[str, Any]) -> None:
    """Document every error of a route, those that follow from its structure too, in the order of the tree."""
    declared = operation["responses"]
    possible = errors_of(path, declared) | {errors.TooSlow, errors.HeadersTooLarge, errors.Internal, errors.Unavailable}
    if path.startswith("/api/"):
        possible.add(errors.RateLimited)
    if "security" in operation:
        possible |= {errors.NotAuthenticated, errors.TokenExpired, errors.SessionRevoked}
    if "parameters" in operation or "requestBody" in operation:
        possible.add(errors.InvalidInput)
    if "requestBody" in operation:
        possible.add(errors.TooLarge)
    answers = {status: answer for status, answer in declared.items() if status < "400"}
    for status, answer in responses(*(error for error in errors.all_errors() if error in possible)).items():
        answer["content"][PROBLEM]["schema"] = {"$ref": REFERENCE.format(model=Problem.__name__)}
        answers[str(status)] = answer | ({"headers": RETRY_AFTER} if status in (429, 503) else {})
    operation["responses"] = answers


def _webhook(event: Any) -> dict[str, Any]:
    return {
        "summary": event.event,
        "operationId": event.event,
        "description": f"{event.__doc__}\n\nOver Socket.IO, not as a request: see [/docs/events/](/docs/events/).",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": REFERENCE.format(model=event.__name__)}}},
        },
        "responses": {"200": {"description": "Nothing is to be answered."}},
    }


def _add_examples(operation: dict[str, Any], schemas: dict[str, Schema]) -> None:
    for part in (operation.get("requestBody", {}), *operation["responses"].values()):
        for content in part.get("content", {}).values():
            if "example" not in content and "examples" not in content:
                made = examples(content["schema"], schemas)
                content["examples"] = {name: {"value": value} for name, value in made.items()}
    for parameter in operation.get("parameters", []):
        # Only these: an example in every filter of a list would find nothing.
        if parameter["in"] == "path" and parameter["name"] in VALUES:
            parameter["example"] = VALUES[parameter["name"]]
