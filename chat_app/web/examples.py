"""An example for every schema of the documents: realistic, always the same, and valid."""

from typing import Any

from chat_app.models.base import LIMITS
from chat_app.web.texts import read_json

Schema = dict[str, Any]

# By the name of a field, or by model and field, which takes precedence. The ids are of the demo data that `make run`
# writes: as Anna, most examples can be sent as they are. A `CodeLogin.password` would end the other sessions.
VALUES: dict[str, Any] = read_json("examples.json") | {"limits": LIMITS}


def examples(schema: Schema, schemas: dict[str, Schema]) -> dict[str, Any]:
    """By name: one for each kind of a union with a discriminator, otherwise a single one."""
    schema = _resolved(schema, schemas)
    if "discriminator" not in schema:
        return {"example": _value(schema, schemas)}
    field, mapping = schema["discriminator"]["propertyName"], schema["discriminator"]["mapping"]
    return {kind: {**_value({"$ref": ref}, schemas), field: kind} for kind, ref in mapping.items()}


def prefill(form: Schema) -> None:
    """Give the fields of a form examples: Swagger fills in a form from its schema."""
    for field, value in _fields(form, {}).items():
        form["properties"][field]["examples"] = [value]


def _resolved(schema: Schema, schemas: dict[str, Schema]) -> Schema:
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _value(schema: Schema, schemas: dict[str, Schema]) -> Any:
    """Something valid, or None if the table lacks it; then a test of the documents fails."""
    schema = _resolved(schema, schemas)
    if "const" in schema:
        return schema["const"]
    for several in ("examples", "enum"):
        if several in schema:
            return schema[several][0]
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return _value(schema[choice][0], schemas)
    if schema.get("type") == "array":
        return [_value(schema["items"], schemas)]
    if "properties" in schema:
        return _fields(schema, schemas)
    return {"object": {}, "boolean": False}.get(schema.get("type", ""))


def _fields(schema: Schema, schemas: dict[str, Schema]) -> dict[str, Any]:
    """Optional fields are left out unless the table knows them: bounds of a page exclude each other."""
    value = {}
    for name, field in schema["properties"].items():
        known = [VALUES[key] for key in (f"{schema.get('title')}.{name}", name) if key in VALUES]
        if "const" not in field and known:
            value[name] = known[0]
        elif name in schema.get("required", []):
            value[name] = _value(field, schemas)
    return value
