"""Builds the schema's typed values from a YAML tree. Reports the first mistake or all of them, with their places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sage_inference.config.errors import ConfigError, Invalid, quote
from sage_inference.config.schema import Key, Shape, Step, join, keys, stands_alone, unknown
from sage_inference.config.tree import Mapping, Node, Scalar, Sequence, error_at
from sage_inference.config.values import check_value

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds values from trees of one ``source``, which errors name.

    Raises the first mistake. With ``mistakes``, collects all of them there; the built values are then not valid.
    """

    source: str
    mistakes: list[ConfigError] | None = None

    def _go_on(self, build: Callable[[], Any]) -> Any:
        """The result of ``build``, or None if its mistake was collected."""
        if self.mistakes is None:
            return build()
        try:
            return build()
        except ConfigError as error:
            self.mistakes.append(error)
            return None

    def section(self, cls: type[T], node: Node, steps: tuple[Step, ...] = ()) -> T:
        """An instance of the dataclass ``cls``. Raises ``ConfigError``."""
        alone = stands_alone(cls)
        if alone and isinstance(node, Scalar) and isinstance(node.value, str):
            return cls(**{alone.name: self.value(alone, alone.shape, node, steps)})
        if not isinstance(node, Mapping):
            what = f"{join(steps)} must be" if steps else "the file must hold"
            hint = _leave_out(node) or (f"its keys: {', '.join(keys(cls))}" if steps else None)
            raise self._error(node, steps, f"{what} a section of keys, not {_form(node)}", hint)
        known, values = keys(cls), dict[str, Any]()
        for name, value in node.entries:
            key = known.get(name.text)
            if key is None:
                self._go_on(partial(self._unknown, name, steps, cls))
            else:
                place = (*steps, key.name)
                values[key.name] = self._go_on(partial(self.value, key, key.shape, value, place))
        for key in known.values():
            given = [name for name in (key.name, *key.instead) if name in values]
            if len(given) > 1:
                self._go_on(partial(self._several, given, node, steps))
            elif not given and (key.required or key.instead):
                values[key.name] = self._go_on(partial(self._missing, key, node, steps))
        return cls(**values)

    def _unknown(self, name: Scalar, steps: tuple[Step, ...], cls: type) -> None:
        problem, hint = unknown(name.text, steps, cls)
        raise self._error(name, (*steps, name.text), problem, hint)

    def _missing(self, key: Key, node: Node, steps: tuple[Step, ...]) -> None:
        path = join((*steps, key.name))
        hint = f"write {key.name}: {key.example}" if key.example else key.doc
        if len(key.instead) > 1:
            hint += f", or one of {' and '.join(key.instead)}"
        raise self._error(node, (*steps, key.name), f"{path} is missing", hint)

    def _several(self, given: list[str], node: Node, steps: tuple[Step, ...]) -> None:
        assert isinstance(node, Mapping)
        place = [name for name, _ in node.entries if name.text in given][-1]
        problem = f"{join(steps)} has {'both ' if len(given) == 2 else ''}{' and '.join(given)}"
        hint = "leave one of them out" if len(given) == 2 else "leave all but one of them out"
        raise self._error(place, (*steps, place.text), problem, hint)

    def value(self, key: Key, shape: Shape, node: Node, steps: tuple[Step, ...]) -> Any:
        """The value of any form at ``steps``. Raises ``ConfigError``."""
        if shape.section:
            return self.section(shape.section, node, steps)
        if shape.kind == "list" and shape.item:
            return self._list(key, shape.item, node, steps)
        if shape.kind == "map" and shape.item:
            return self._map(key, shape.item, node, steps)
        if not isinstance(node, Scalar):
            raise self._error(node, steps, f"{join(steps)} must be a single value, not {_form(node)}")
        value = node.value
        if key.loose and shape.is_text and isinstance(value, int | float):
            value = node.text  # 0.90 and true keep their spelling on command lines
        try:
            return check_value(key, shape, value)
        except Invalid as error:
            raise self._error(node, steps, f"{join(steps)} {error.problem}", error.hint) from None

    def _list(self, key: Key, item: Shape, node: Node, steps: tuple[Step, ...]) -> tuple[Any, ...]:
        if key.loose and isinstance(node, Scalar) and node.value is not None:
            node = Sequence([node], node.start, node.end)
        if not isinstance(node, Sequence):
            hint = _leave_out(node) or "put [ ] around it, or a dash before each entry"
            raise self._error(node, steps, f"{join(steps)} must be a list, not {_form(node)}", hint)
        return tuple(
            self._go_on(partial(self.value, key, item, each, (*steps, at)))
            for at, each in enumerate(node.items)
        )

    def _map(self, key: Key, item: Shape, node: Node, steps: tuple[Step, ...]) -> dict[str, Any]:
        if not isinstance(node, Mapping):
            hint = _leave_out(node) or "write name: value"
            raise self._error(node, steps, f"{join(steps)} must be a map of names, not {_form(node)}", hint)
        for name, _ in node.entries:
            if not name.text.strip() or not name.text.isprintable():
                raise self._error(name, steps, f"{join(steps)} holds {quote(name.text)}, which is not a name")
        return {
            name.text: self._go_on(partial(self.value, key, item, each, (*steps, name.text)))
            for name, each in node.entries
        }

    def _error(
        self, node: Node, steps: tuple[Step, ...], problem: str, hint: str | None = None
    ) -> ConfigError:
        return error_at(self.source, node.start, problem, hint, join(steps) or None)


def _form(node: Node) -> str:
    if isinstance(node, Scalar):
        return "null" if node.value is None else "a single value"
    return "a list" if isinstance(node, Sequence) else "a section of keys"


def _leave_out(node: Node) -> str | None:
    null = isinstance(node, Scalar) and node.value is None
    return "leave the key out for its default" if null else None
