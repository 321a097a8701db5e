"""Generates arguments of operations from the schemas in the published documents."""

import random
from typing import Any
from uuid import UUID

from tests.operations import Json

JUNK: tuple[Any, ...] = (None, True, -1, 0, 1.5, 2**53, "", "words", "x" * 9000, "nul \x00", [], [None], {}, {"a": {}})


class Generator:
    """Makes arguments from a schema: valid as far as the schema says, then sometimes broken."""

    def __init__(self, rng: random.Random, definitions: Json, ids: list[str]) -> None:
        self.rng, self.definitions, self.ids = rng, definitions, ids

    def argument(self, schema: Json) -> Any:
        made = self.value(schema)
        if self.rng.random() < 0.6 or not isinstance(made, dict):
            return made
        match self.rng.choice(("junk", "missing", "surprise", "other")):
            case "junk" if made:
                made[self.rng.choice(list(made))] = self.rng.choice(JUNK)
            case "missing" if made:
                del made[self.rng.choice(list(made))]
            case "surprise":
                made["surprise"] = self.rng.choice(JUNK)
            case _:
                return self.rng.choice(JUNK)
        return made

    def value(self, schema: Json) -> Any:
        if "$ref" in schema:
            return self.value(self.definitions[schema["$ref"].rpartition("/")[2]])
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return self.value(self.rng.choice(schema[several]))
        if "const" in schema:
            return schema["const"]
        kind = schema["type"]
        match self.rng.choice(kind) if isinstance(kind, list) else kind:
            case "object":
                required = schema.get("required", [])
                wanted = [name for name in schema.get("properties", ()) if name in required or self.rng.random() < 0.4]
                return {name: self.value(schema["properties"][name]) for name in wanted}
            case "array":
                return [self.value(schema["items"]) for _ in range(self.rng.randint(1, 3))]
            case "string":
                return self.text(schema)
            case "integer":
                low, high = schema.get("minimum", 0), schema.get("maximum", 100)
                return self.rng.choice((low, low + self.rng.randrange(8), high))
            case "number":
                return self.rng.uniform(schema.get("minimum", -1), schema.get("maximum", 1))
            case "boolean":
                return self.rng.random() < 0.5
        return None

    def text(self, schema: Json) -> str:
        if schema.get("format") == "uuid":
            return self.rng.choice([*self.ids, str(UUID(int=self.rng.randrange(9)))])
        longest = min(schema.get("maxLength", 20), self.rng.choice((1, 20, 300)))
        return "".join(self.rng.choice("ab 9.Ж😀") for _ in range(max(1, longest)))
