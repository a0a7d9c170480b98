"""The effective settings, one row per value. Entries of lists and maps have rows of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sage_inference.config.document import plain
from sage_inference.config.schema import Key, Step, is_of_entry, join, keys, walk
from sage_inference.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Effective:
    """A value and the default of its key, with secrets masked."""

    key: str
    value: Any
    default: Any


def effective(settings: Settings) -> Iterator[Effective]:
    """Every key in the schema's order. Sections in a list or map have only keys that differ from their defaults."""
    for path, key in walk():
        if key.shape.section or is_of_entry(path):
            continue
        value: Any = settings
        for name in path.split("."):
            value = getattr(value, name)
        yield from _rows(path, key, plain(value))


def _rows(path: str, key: Key, value: Any) -> Iterator[Effective]:
    item = key.shape.item
    if item and item.section and value:
        of_list = key.shape.kind == "list"
        for name, entry in enumerate(value) if of_list else value.items():
            yield from _changed(_entry(path, name), item.section, entry)
    elif key.shape.kind == "map" and value:
        for name, entry in value.items():
            yield Effective(_entry(path, name), entry, None)
    else:
        yield Effective(path, value, plain(key.default))


def _entry(path: str, name: Step) -> str:
    return join((*path.split("."), name))


def _changed(path: str, section: type, entry: dict[str, Any]) -> Iterator[Effective]:
    for key in keys(section).values():
        value, default = entry[key.name], plain(key.default)
        if key.shape.section and value != default:
            yield from _changed(f"{path}.{key.name}", key.shape.section, value)
        elif key.required or value != default:
            yield Effective(f"{path}.{key.name}", value, default)
