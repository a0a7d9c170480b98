"""The settings that hold, one row a value: entries of lists and maps have rows of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sage_inference.config.document import plain
from sage_inference.config.schema import Key, keys, walk
from sage_inference.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Effective:
    """A value and the default of its key; secrets masked."""

    key: str
    value: Any
    default: Any


def effective(settings: Settings) -> Iterator[Effective]:
    """Every key in the schema's order. Of a list's entries, the keys that differ from their defaults."""
    for path, key in walk():
        if key.shape.section or "[]" in path:
            continue
        value: Any = settings
        for name in path.split("."):
            value = getattr(value, name)
        yield from _rows(path, key, plain(value))


def _rows(path: str, key: Key, value: Any) -> Iterator[Effective]:
    item = key.shape.item
    if key.shape.kind == "list" and item and item.section and value:
        for at, entry in enumerate(value):
            for inner in keys(item.section).values():
                if inner.required or entry[inner.name] != plain(inner.default):
                    yield Effective(f"{path}[{at}].{inner.name}", entry[inner.name], plain(inner.default))
    elif key.shape.kind == "map" and value:
        for name, entry in value.items():
            yield Effective(f"{path}.{name}", entry, None)
    else:
        yield Effective(path, value, plain(key.default))
