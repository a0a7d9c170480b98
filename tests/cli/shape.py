"""The little of JSON Schema that our answers are described in, checked without another package."""

from __future__ import annotations

from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
    "boolean": (bool,),
}
_KNOWN = {"type", "properties", "required", "items", "enum", "const", "anyOf", "minimum"}


def is_type(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name])


def mistakes(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """What in ``value`` is not as ``schema`` says; raises for a keyword that this does not check."""
    assert set(schema) <= _KNOWN, set(schema) - _KNOWN
    if "anyOf" in schema:
        tries = [mistakes(value, each, where) for each in schema["anyOf"]]
        return [] if [] in tries else [each for found in tries for each in found]
    if "const" in schema and value != schema["const"]:
        return [f"{where}: {value!r} is not {schema['const']!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is none of {schema['enum']}"]
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(is_type(value, name) for name in names):
        return [f"{where}: {value!r} is no {' or '.join(names)}"]
    found = []
    if value is not None and "minimum" in schema and value < schema["minimum"]:
        found.append(f"{where}: {value!r} is under {schema['minimum']}")
    if isinstance(value, dict):
        found += [f"{where}.{key}: missing" for key in schema.get("required", []) if key not in value]
        for key, inner in schema.get("properties", {}).items():
            if key in value:
                found += mistakes(value[key], inner, f"{where}.{key}")
    if isinstance(value, list) and "items" in schema:
        for at, each in enumerate(value):
            found += mistakes(each, schema["items"], f"{where}[{at}]")
    return found
