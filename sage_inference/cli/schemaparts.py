"""The parts of which the schemas of answers are made."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
FLAG: Schema = {"type": "boolean"}
FLAG_OR_NULL: Schema = {"type": ["boolean", "null"]}
COUNT: Schema = {"type": "integer", "minimum": 0}
COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 0}
NUMBER: Schema = {"type": "number", "minimum": 0}
NUMBER_OR_NULL: Schema = {"type": ["number", "null"], "minimum": 0}


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def object_of(**properties: Schema) -> Schema:
    """All properties are present; an unknown one is null."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def answer(**properties: Schema) -> Schema:
    return object_of(schema={"const": 1}, **properties)


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}
