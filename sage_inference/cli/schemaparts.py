"""The parts of the schemas in ``schemas``."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_FLAG: Schema = {"type": "boolean"}
_FLAG_OR_NULL: Schema = {"type": ["boolean", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 0}
_NUMBER: Schema = {"type": "number", "minimum": 0}
_NUMBER_OR_NULL: Schema = {"type": ["number", "null"], "minimum": 0}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(**properties: Schema) -> Schema:
    """All properties are present; an unknown one is null."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _answer(**properties: Schema) -> Schema:
    return _object(schema={"const": 1}, **properties)


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}
