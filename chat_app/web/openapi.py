"""Completes the OpenAPI document that FastAPI derives from the routes: texts, errors, examples and the events."""

from functools import cache
from inspect import getdoc
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from sqlmodel import Field, SQLModel

from chat_app import errors
from chat_app.api.problems import PROBLEM, errors_of, responses
from chat_app.errors import ChatError
from chat_app.events import CLIENT_EVENTS
from chat_app.web.examples import VALUES, Schema, examples, prefill
from chat_app.web.texts import describe, rates_of, read_json, summarize

# Of the contract, not of a release: it moves when clients can see a difference.
VERSION = "2.0.0"
FORM = "Body_"  # FastAPI's prefix for the schema of a form
REFERENCE = "#/components/schemas/{model}"
REQUEST_ID = "6f1f3a0d9b114c8e9f575b0d3f4e2c1a"
RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}

# Arguments of FastAPI.
ABOUT: dict[str, Any] = {
    **read_json("openapi.json"),
    "description": describe("http.md", (error for error in errors.all_errors() if error is not errors.UnknownCommand)),
    "version": VERSION,
    # Short names for generated clients, equal to those of the commands.
    "generate_unique_id_function": lambda route: route.name,
}


class FieldProblem(SQLModel):
    """One error in the input."""

    pointer: str = Field(description="A JSON pointer into the input.")
    code: str
    detail: str


class Problem(SQLModel):
    """An RFC 9457 problem. Branch on `code`, or on `status` if you don't know it; `detail` is text for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(schema_extra={"json_schema_extra": {"enum": sorted(error.code for error in errors.all_errors())}})
    request_id: str | None = Field(description="Finds this request in the service's logs.")
    errors: list[FieldProblem] = Field(default=[], description="With 422 `invalid_input`: each error and its place.")
    retry_after: int | None = Field(default=None, description="With 429 and 503: seconds to wait.")


def customize(api: FastAPI) -> None:
    """Complete the document of the routes; it is made once and then kept."""
    api.openapi = cache(lambda: _completed(FastAPI.openapi(api)))  # type: ignore[method-assign]  # as FastAPI documents


def problem_example(error: type[ChatError]) -> dict[str, Any]:
    """The error as clients receive it."""
    if error is errors.InvalidInput:
        wrong = {"type": "string_too_short", "loc": ("text",), "ctx": {"min_length": 1}}
        return errors.InvalidInput.found([wrong]).problem(REQUEST_ID)
    return error().problem(REQUEST_ID)


def require_all(schemas: dict[str, Schema]) -> None:
    """Mark every field of answers and events as required, also those with a default."""
    for name, schema in schemas.items():
        is_input = schema.get("additionalProperties") is False or name.startswith(FORM)
        if "properties" in schema and not is_input and name != Problem.__name__:
            schema["required"] = list(schema["properties"])
            for field in schema["properties"].values():
                field.pop("default", None)


def _completed(made: dict[str, Any]) -> dict[str, Any]:
    components = made["components"]
    components["examples"] = {error.code: {"value": problem_example(error)} for error in errors.all_errors()}
    schemas: dict[str, Schema] = components["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    sent: list[tuple[Any, JsonSchemaMode]] = [(model, "serialization") for model in (Problem, *CLIENT_EVENTS)]
    schemas |= models_json_schema(sent, ref_template=REFERENCE)[1]["$defs"]
    require_all(schemas)
    for form in [schema for name, schema in schemas.items() if name.startswith(FORM)]:
        prefill(form)
    for path, operation in _operations(made["paths"]):
        operation["summary"] = summarize(operation["description"])
        _add_errors(path, operation)
    made["webhooks"] = {f"event: {event.event}": {"post": _webhook(event)} for event in CLIENT_EVENTS}
    for _, operation in _operations(made["paths"] | made["webhooks"]):
        operation.setdefault("security", [])
        _add_examples(operation, schemas)
    return made


def _operations(paths: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(path, operation) for path, methods in paths.items() for operation in methods.values()]


def _add_errors(path: str, operation: dict[str, Any]) -> None:
    """Document every error of a route, those that follow from its structure too, in the order of the tree."""
    declared, rates = operation["responses"], rates_of(operation["operationId"])
    possible = errors_of(path, declared) | {errors.TooSlow, errors.HeadersTooLarge, errors.Internal, errors.Unavailable}
    if "security" in operation:
        # All operations of a user have a rate together.
        possible |= {errors.NotAuthenticated, errors.TokenExpired, errors.SessionRevoked, errors.RateLimited}
    if rates:
        possible.add(errors.RateLimited)
    if "parameters" in operation or "requestBody" in operation:
        possible.add(errors.InvalidInput)
    if "requestBody" in operation:
        possible.add(errors.TooLarge)
    answers = {status: answer for status, answer in declared.items() if status < "400"}
    for status, answer in responses(*(error for error in errors.all_errors() if error in possible)).items():
        answer["content"][PROBLEM]["schema"] = {"$ref": REFERENCE.format(model=Problem.__name__)}
        answers[str(status)] = answer | ({"headers": RETRY_AFTER} if status in (429, 503) else {})
    if rates:
        answers["429"]["description"] += f"\n\nAt most {rates}."
    operation["responses"] = answers


def _webhook(event: Any) -> dict[str, Any]:
    meaning = getdoc(event) or ""
    described = f"{meaning}\n\nOver Socket.IO, not as a request: see [/docs/events/](/docs/events/)."
    webhook = read_json("webhook.json")
    webhook["requestBody"]["content"]["application/json"]["schema"]["$ref"] = REFERENCE.format(model=event.__name__)
    return {"summary": summarize(meaning), "operationId": event.event, "description": described, **webhook}


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
