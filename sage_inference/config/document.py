"""The schema for people and editors: rows, the commented file, the JSON schema. Never has a secret."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sage_inference.config.schema import Key, Shape, is_of_entry, keys, stands_alone, walk
from sage_inference.config.secrets import Secret
from sage_inference.config.settings import Settings
from sage_inference.config.values import span

_JSON_TYPES = {
    "text": "string",
    "secret": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
}


@dataclass(frozen=True, slots=True)
class DocumentedKey:
    """One documented key. ``value`` is the effective value if settings were given, with secrets masked."""

    key: str
    type: str
    default: Any
    value: Any
    doc: str
    choices: tuple[str, ...] | None


def rows(settings: Settings | None = None) -> list[DocumentedKey]:
    """Every key but sections. Keys of entries, as ``instances[].url``, have no value."""
    found = []
    for path, key in walk():
        if key.shape.section:
            continue
        value = None if settings is None or is_of_entry(path) else _at(settings, path)
        found.append(
            DocumentedKey(path, type_of(key, key.shape), plain(key.default), value, key.doc, key.choices)
        )
    return found


def type_of(key: Key, shape: Shape) -> str:
    """``whole number from 1 to 65535``, ``list of text`` …"""
    if shape.kind == "list" and shape.item:
        one = f"{shape.item.kind} or " if key.loose else ""
        return f"{one}list of {'sections' if shape.item.section else shape.item.kind}"
    if shape.kind == "map" and shape.item:
        return f"map of {'sections' if shape.item.section else shape.item.kind}"
    names = {"integer": "whole number", "boolean": "true or false"}
    return names.get(shape.kind, shape.kind) + span(key, shape)


def masked(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, in the file's form, with literal secrets as stars."""
    document: dict[str, Any] = plain(settings)
    return document


def plain(value: Any) -> Any:
    """A value of the settings as a value of YAML and JSON."""
    if isinstance(value, Secret):
        return value.masked()
    if isinstance(value, tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if hasattr(type(value), "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in keys(type(value))}
    return value


def _at(settings: Any, path: str) -> Any:
    for name in path.split("."):
        settings = getattr(settings, name)
    return plain(settings)


def commented_file() -> str:
    """A configuration to start from: every key with its help, at its default or, if it has none, as an example."""
    lines = [
        "# The configuration of sage-inference. Every key is at its default; change what you need.",
        "# sage inference config validate checks it, sage inference reload applies it.",
    ]
    for key in keys(Settings).values():
        lines += ["", *_section(key)] if key.shape.section else ["", *_entry(key, "")]
    return "\n".join(lines) + "\n"


def _section(key: Key, indent: str = "") -> list[str]:
    assert key.shape.section is not None
    lines = [f"{indent}# {key.doc}", f"{indent}{key.name}:"]
    for inner in keys(key.shape.section).values():
        lines += _entry(inner, f"{indent}  ")
    return lines


def _entry(key: Key, indent: str) -> list[str]:
    if key.shape.section and not key.example:
        return _section(key, indent)
    lines = [f"{indent}# {_help(key)}"]
    if key.shape.section:
        return [*lines, f"{indent}# {key.name}: {key.example}", f"{indent}{key.name}: {{}}"]
    section = key.shape.item.section if key.shape.kind == "list" and key.shape.item else None
    value = plain(key.default)
    if section is not None:
        lines += [f"{indent}# {line}" for line in _example_entry(key.name, section)]
    elif key.example and not value:
        lines.append(f"{indent}# {key.name}: {key.example}")
    lines.append(f"{indent}{key.name}: {json.dumps(value, ensure_ascii=False)}")
    return lines


def _example_entry(name: str, section: type) -> list[str]:
    lines = [f"{name}:"]
    others = {other for key in keys(section).values() for other in key.instead}
    for number, key in enumerate(keys(section).values()):
        example = key.example or json.dumps(plain(key.default), ensure_ascii=False)
        begin = "  - " if number == 0 else "    # " if key.name in others else "    "
        lines.append(f"{begin}{key.name}: {example}  # {_help(key)}")
    return lines


def _help(key: Key) -> str:
    return f"{key.doc} One of {', '.join(key.choices)}." if key.choices else key.doc


def json_schema() -> dict[str, Any]:
    """The file's schema for editors, JSON Schema draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sage-inference configuration",
        **_schema_of(Settings),
    }


def _schema_of(section: type) -> dict[str, Any]:
    known = keys(section)
    document: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _schema(key, key.shape) for name, key in known.items()},
    }
    required = [name for name, key in known.items() if key.required]
    if required:
        document["required"] = required
    one_of = [[name, *key.instead] for name, key in known.items() if key.instead]
    if one_of:
        document["oneOf"] = [{"required": [name]} for name in one_of[0]]
    return document


def _schema(key: Key, shape: Shape, *, inner: bool = False) -> dict[str, Any]:
    found: dict[str, Any]
    if shape.section:
        found = _schema_of(shape.section)
        if stands_alone(shape.section):
            found = {"anyOf": [{"type": "string"}, found]}
    elif shape.kind == "list" and shape.item:
        items = _schema(key, shape.item, inner=True)
        found = {"type": "array", "items": items}
        if key.loose:
            found = {"anyOf": [found, items]}
    elif shape.kind == "map" and shape.item:
        found = {"type": "object", "additionalProperties": _schema(key, shape.item, inner=True)}
    else:
        types = [_JSON_TYPES[shape.kind], *(["number", "boolean"] if key.loose and shape.is_text else [])]
        types += ["null"] if shape.optional else []
        found = {"type": types if len(types) > 1 else types[0]} | _bounds(key)
    if not inner:
        found["description"] = key.doc
        if not key.required and not shape.section:
            found["default"] = plain(key.default)
    return found


def _bounds(key: Key) -> dict[str, Any]:
    bounds: dict[str, Any] = {"enum": list(key.choices)} if key.choices else {}
    if key.minimum is not None:
        bounds["minimum"] = key.minimum
    if key.maximum is not None:
        bounds["maximum"] = key.maximum
    return bounds
