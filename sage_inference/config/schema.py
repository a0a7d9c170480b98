"""Reads the schema's dataclasses: every key with its form and default, and the place of a dotted path."""

from __future__ import annotations

import re
import shlex
import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sage_inference.config import names
from sage_inference.config.errors import ConfigError, nearest
from sage_inference.config.secrets import Secret
from sage_inference.config.settings import Settings

Kind = Literal["text", "secret", "integer", "number", "boolean", "list", "map", "section"]
Step = str | int

# The largest number of any setting: every reader of JSON and YAML can hold it exactly.
LARGEST = 2**53

_KINDS: dict[Any, Kind] = {str: "text", Secret: "secret", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True, slots=True)
class Shape:
    """The form of a value. ``item`` is the form of a list's or map's entries, ``section`` a section's dataclass."""

    kind: Kind
    optional: bool = False
    item: Shape | None = None
    section: type | None = None

    @property
    def is_scalar(self) -> bool:
        return self.kind not in ("list", "map", "section")

    @property
    def is_text(self) -> bool:
        return self.kind in ("text", "secret")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section, with the metadata of its field."""

    name: str
    shape: Shape
    doc: str
    required: bool
    default: Any
    choices: tuple[str, ...] | None
    minimum: float | None
    maximum: float | None
    format: str | None
    example: str | None
    loose: bool
    instead: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a dotted path: its steps, the key at its end, and the form of the value there."""

    steps: tuple[Step, ...]
    key: Key
    shape: Shape


def keys(section: type) -> dict[str, Key]:
    """The keys of a section, in their order."""
    return _keys(section)


@cache
def _keys(section: type) -> dict[str, Key]:
    hints = get_type_hints(section)
    found: dict[str, Key] = {}
    for field in fields(section):
        meta = field.metadata
        default = field.default if field.default_factory is MISSING else field.default_factory()
        found[field.name] = Key(
            name=field.name,
            shape=_shape(hints[field.name]),
            doc=meta["doc"],
            required=default is MISSING,
            default=None if default is MISSING else default,
            choices=meta["choices"] and tuple(meta["choices"]),
            minimum=meta["minimum"],
            maximum=meta["maximum"],
            format=meta["format"],
            example=meta["example"],
            loose=meta["loose"],
            instead=tuple(meta["instead"]),
        )
    return found


def _shape(hint: Any) -> Shape:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (only,) = (arg for arg in inner if arg is not type(None))
        found = _shape(only)
        return Shape(found.kind, True, found.item, found.section)
    if origin is tuple:
        return Shape("list", item=_shape(inner[0]))
    if origin is dict:
        return Shape("map", item=_shape(inner[1]))
    if hint in _KINDS:
        return Shape(_KINDS[hint])
    return Shape("section", section=hint)


def stands_alone(section: type) -> Key | None:
    """The only key that a section requires, if it is text. The section may then be written as that text.

    A key that another one may replace counts as required. A text alone does not show which of three it is.
    """
    needed = [key for key in keys(section).values() if key.required or len(key.instead) == 1]
    return needed[0] if len(needed) == 1 and needed[0].shape.is_text else None


def walk(section: type = Settings, before: str = "") -> Iterator[tuple[str, Key]]:
    """Every key with its path. Keys of entries are written ``instances[].url``, ``scheduling.slo.models.NAME.ttft_ms``."""
    for key in keys(section).values():
        path = before + key.name
        yield path, key
        if key.shape.section:
            yield from walk(key.shape.section, f"{path}.")
        elif key.shape.item and key.shape.item.section:
            yield from walk(
                key.shape.item.section, f"{path}[]." if key.shape.kind == "list" else f"{path}.NAME."
            )


def is_of_entry(path: str) -> bool:
    """Whether ``walk`` found the path within an entry of a list or map: it has no value in the settings."""
    return "[]" in path or ".NAME." in path


def join(steps: tuple[Step, ...]) -> str:
    """``("instances", 0, "url")`` as ``instances[0].url``; names of maps in quotes where a path needs them."""
    text = ""
    shape: Shape | None = Shape("section", section=Settings)
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            is_name = shape and shape.kind == "map" and shape.item
            name = names.written(step, _known(is_name)) if is_name else step
            text += f".{name}" if text else name
        shape = _below(shape, step)
    return text


def shape_at(steps: tuple[Step, ...]) -> Shape | None:
    """The form of the value at ``steps``, or None if the schema has none."""
    shape: Shape | None = Shape("section", section=Settings)
    for step in steps:
        shape = _below(shape, step)
    return shape


def _below(shape: Shape | None, step: Step) -> Shape | None:
    if shape is None or shape.section is None:
        return shape.item if shape else None
    key = keys(shape.section).get(str(step))
    return key.shape if key else None


def _known(item: Shape) -> names.Keys:
    """The keys that may follow the name of an entry of this form."""
    if item.section is None:
        return {}
    return {key.name: _known(key.shape) for key in keys(item.section).values()}


def unknown(name: str, before: tuple[Step, ...], section: type | None) -> tuple[str, str]:
    """Problem and hint for a key that ``section`` lacks. The hint is a similar key of it, or an equal name elsewhere."""
    path = join((*before, name if name.isprintable() and len(name) <= 80 else f"{name[:40]!a}"))
    known = keys(section) if section else {}
    namesakes = [other for other, _ in walk() if other.rpartition(".")[2] == name]
    near = nearest(name, known)
    path_meant = join((*before, near)) if near else namesakes[0] if namesakes else None
    hint = f"did you mean {path_meant}?" if path_meant else None
    return f"unknown key {path}", hint or f"known here: {', '.join(known) or 'none'}"


def locate(path: str) -> Place:
    """The place of ``path`` (``scheduling.policy``, ``instances[0].url``, ``instances.0.url``).

    The rest after a map is the name of an entry, with its dots. In a map of sections the name ends before a key of
    the section (``scheduling.slo.models.qwen2.5-7b.ttft_ms``). A name in quotes or brackets is taken as it is
    (``scheduling.slo.models."m.low".ttft_ms``). Raises ``ConfigError`` for an unknown key.
    """
    steps: tuple[Step, ...] = ()
    shape, key, rest = Shape("section", section=Settings), None, path.strip()
    while rest:
        if shape.kind == "map" and shape.item:
            name, rest = _entry_name(rest, shape.item, steps, path)
            steps, shape = (*steps, name), shape.item
            continue
        name, rest = _split(rest)
        if shape.kind == "list" and shape.item:
            index = name.strip("[]")
            if not (index.isascii() and index.isdigit() and len(index) <= 6):
                raise ConfigError(
                    f"{join(steps)} is a list: {path[:80]!a} names no entry of it",
                    key=join(steps),
                    hint=f"write {join(steps)}[0]",
                )
            steps, shape = (*steps, int(index)), shape.item
        elif shape.section and name in keys(shape.section):
            key = keys(shape.section)[name]
            steps, shape = (*steps, name), key.shape
        else:
            problem, hint = unknown(name, steps, shape.section)
            raise ConfigError(problem, key=path, hint=hint)
    if key is None:
        raise ConfigError("the key is empty", hint=f"one of {', '.join(keys(Settings))}")
    return Place(steps, key, shape)


def _entry_name(rest: str, item: Shape, before: tuple[Step, ...], path: str) -> tuple[str, str]:
    """The name of a map's entry, and the path that follows it within the entry. Raises ``ConfigError``."""
    here = join(before)
    try:
        return names.split_name(rest, _known(item))
    except names.Misspelled as error:
        literal = shlex.quote(f"{here}.{error.literal}")
        raise ConfigError(
            f"unknown key {path[:200]}",
            key=path,
            hint=f"did you mean {here}.{error.meant}? An entry named {error.name[:80]} is written {literal}",
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{here}.{error.problem}", key=path, hint=error.hint) from None


def _split(path: str) -> tuple[str, str]:
    """The first step of a path and the rest."""
    found = re.match(r"(\[[^\]]*\]|[^.\[]*)\.?(.*)", path, re.DOTALL)
    if not found or (not found[1] and found[2] == path):
        return path, ""
    return found[1], found[2]
