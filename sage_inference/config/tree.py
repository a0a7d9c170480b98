"""YAML text as a tree whose nodes have their places. Forms that no configuration needs are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from sage_inference.config.errors import ConfigError
from sage_inference.config.scalars import Plain, plain

# libyaml's parser, if PyYAML was built with it, is ten times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Deeper than any key of the schema, and shallow enough for recursion.
_DEEPEST = 20
# The most nodes that all aliases together may expand to.
_MOST_EXPANDED = 10_000
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text: its offset, line and column, all counted from 0."""

    index: int
    line: int
    column: int


NOWHERE = Mark(-1, -1, -1)


@dataclass(slots=True)
class Scalar:
    value: Plain
    text: str
    start: Mark = NOWHERE
    end: Mark = NOWHERE
    block: bool = False  # written with | or >
    is_alias: bool = False


@dataclass(slots=True)
class Sequence:
    items: list[Node] = field(default_factory=list)
    start: Mark = NOWHERE
    end: Mark = NOWHERE
    flow: bool = False
    is_alias: bool = False


@dataclass(slots=True)
class Mapping:
    """``entries`` include those that ``<<`` merges in. ``written`` are the entries of the text itself."""

    entries: list[tuple[Scalar, Node]] = field(default_factory=list)
    start: Mark = NOWHERE
    end: Mark = NOWHERE
    flow: bool = False
    is_alias: bool = False
    written: list[tuple[Scalar, Node]] = field(default_factory=list)


Node = Scalar | Sequence | Mapping


def error_at(
    source: str, mark: Mark, problem: str, hint: str | None = None, key: str | None = None
) -> ConfigError:
    """A ``ConfigError`` at ``mark``. It has no line and column if the value came from no text."""
    if mark is NOWHERE:
        return ConfigError(problem, source=source, key=key, hint=hint)
    return ConfigError(problem, source=source, line=mark.line + 1, column=mark.column + 1, key=key, hint=hint)


def read(text: str, source: str) -> Node | None:
    """The tree of ``text``, or None if it has only comments. Raises ``ConfigError``."""
    bad = _FORBIDDEN.search(text)
    if bad:
        before = text[: bad.start()]
        line = before.count("\n")
        mark = Mark(bad.start(), line, bad.start() - before.rfind("\n") - 1)
        raise error_at(source, mark, f"character U+{ord(bad[0]):04X} is not allowed in YAML")
    try:
        return _grow(text, source)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, source) from None
    # ValueError and OverflowError: PyYAML does not catch its own for numbers in directives and escapes.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"not YAML: {str(error).splitlines()[0][:200]}", source=source) from None


def _syntax_error(error: yaml.MarkedYAMLError, text: str, source: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    words = [part for part in (error.problem, error.context) if part]
    problem = "not YAML: " + ascii(", ".join(words) or "cannot be read")[1:-1]
    place = Mark(mark.index, mark.line, mark.column) if mark else NOWHERE
    tab = mark is not None and text[mark.index : mark.index + 1] == "\t"
    hint = "indent with spaces, not tabs" if tab else None
    return error_at(source, place, problem, hint)


def _grow(text: str, source: str) -> Node | None:
    root: Node | None = None
    open_nodes: list[_Open] = []
    anchors = Anchors(source)
    documents = 0
    for event in _events(text):
        mark = _mark(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise error_at(source, mark, "a second document starts here", "remove the --- before it")
        if isinstance(event, yaml.AliasEvent):
            node, extent = anchors.resolve(str(event.anchor), mark, _mark(event.end_mark))
        elif isinstance(event, yaml.NodeEvent):
            _refuse_tag(event, source, mark)
            node, extent = _node(event, mark), Extent()
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = open_nodes.pop()
            closed.node.end = _mark(event.end_mark)
            if isinstance(closed.node, Mapping):
                merge(closed.node, source)
            anchors.define(closed.anchor, closed.node, closed.extent)
            if open_nodes:
                open_nodes[-1].extent.hold(closed.extent)
            continue
        else:
            continue
        if len(open_nodes) + extent.height > _DEEPEST:
            raise error_at(source, mark, f"nested more than {_DEEPEST} deep")
        if open_nodes:
            open_nodes[-1].add(node, source)
        else:
            root = node
        is_complete = isinstance(node, Scalar) or isinstance(event, yaml.AliasEvent)
        if not is_complete:
            anchors.begin(event.anchor)
            open_nodes.append(_Open(node, event.anchor, extent))  # type: ignore[arg-type]
            continue
        if not isinstance(event, yaml.AliasEvent):
            anchors.define(event.anchor, node, extent)
        if open_nodes:
            open_nodes[-1].extent.hold(extent)
    return root


class _Open:
    """A collection that is not complete yet. Keeps a mapping's key until its value is read."""

    def __init__(self, node: Sequence | Mapping, anchor: str | None, extent: Extent) -> None:
        self.node = node
        self.anchor = anchor
        self.extent = extent
        self.key: Scalar | None = None
        self.seen: set[str] = set()

    def add(self, node: Node, source: str) -> None:
        if isinstance(self.node, Sequence):
            self.node.items.append(node)
        elif self.key is not None:
            self.node.written.append((self.key, node))
            self.key = None
        elif not isinstance(node, Scalar):
            raise error_at(source, node.start, "a key must be a word, not a list or a section")
        else:
            if node.text in self.seen:
                raise error_at(source, node.start, f"key {node.text[:60]!a} appears twice", "remove one")
            self.seen.add(node.text)
            self.key = node


@dataclass(slots=True)
class Extent:
    """The extent of a node with its aliases expanded: ``size`` nodes in ``height`` levels."""

    size: int = 1
    height: int = 1

    def hold(self, inner: Extent) -> None:
        self.size += inner.size
        self.height = max(self.height, inner.height + 1)


class Anchors:
    """The nodes named by ``&name``, and the number of nodes that their aliases expand to."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._known: dict[str, tuple[Node, Extent] | None] = {}
        self._expanded = 0

    def begin(self, name: str | None) -> None:
        if name is not None:
            self._known[name] = None

    def define(self, name: str | None, node: Node, extent: Extent) -> None:
        if name is not None:
            self._known[name] = node, extent

    def resolve(self, name: str, start: Mark, end: Mark) -> tuple[Node, Extent]:
        """The node of ``*name``, with the alias's own place. Raises ``ConfigError``."""
        if name not in self._known:
            raise error_at(
                self._source, start, f"alias *{name[:60]} has no anchor", f"write &{name[:60]} before it"
            )
        found = self._known[name]
        if found is None:
            raise error_at(self._source, start, f"alias *{name[:60]} is within the value that it names")
        node, extent = found
        self._expanded += extent.size
        # A few nested aliases can stand for billions of nodes.
        if self._expanded > _MOST_EXPANDED:
            raise error_at(self._source, start, f"aliases stand for more than {_MOST_EXPANDED} values")
        return _alias(node, start, end), extent


def _alias(node: Node, start: Mark, end: Mark) -> Node:
    if isinstance(node, Scalar):
        return Scalar(node.value, node.text, start, end, is_alias=True)
    if isinstance(node, Sequence):
        return Sequence(node.items, start, end, flow=True, is_alias=True)
    return Mapping(node.entries, start, end, flow=True, is_alias=True, written=node.written)


def merge(node: Mapping, source: str) -> None:
    """Fill ``entries`` with the written ones, then with those of ``<<`` that are not written. Raises ``ConfigError``."""
    sources: list[Mapping] = []
    for key, value in node.written:
        if not is_merge(key):
            node.entries.append((key, value))
            continue
        for each in value.items if isinstance(value, Sequence) else [value]:
            if not isinstance(each, Mapping):
                raise error_at(source, value.start, "<< takes a section of keys, or a list of such")
            sources.append(each)
    seen = {key.text for key, _ in node.entries}
    for each in sources:
        for key, value in each.entries:
            if key.text not in seen:
                seen.add(key.text)
                node.entries.append((key, value))


def is_merge(key: Scalar) -> bool:
    """Whether a key is ``<<`` without quotes. With quotes it is a name."""
    return key.text == "<<" and key.end.index - key.start.index == len(key.text)


def _events(text: str) -> Iterator[Any]:
    events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
    return events


def _mark(mark: Any) -> Mark:
    return Mark(mark.index, mark.line, mark.column)


def _refuse_tag(event: Any, source: str, mark: Mark) -> None:
    if event.tag and not (event.tag == "!" and isinstance(event, yaml.ScalarEvent)):
        raise error_at(source, mark, "tags (!name) are not supported", "write the value without it")


def _node(event: Any, start: Mark) -> Node:
    end = _mark(event.end_mark)
    if isinstance(event, yaml.ScalarEvent):
        bare = not event.style
        return Scalar(
            plain(event.value) if bare else event.value, event.value, start, end, event.style in ("|", ">")
        )
    made = Sequence if isinstance(event, yaml.SequenceStartEvent) else Mapping
    return made(start=start, end=end, flow=bool(event.flow_style))


def from_data(data: object, source: str, depth: int = 0) -> Node:
    """The tree of decoded JSON. Its nodes have no places."""
    if depth > _DEEPEST:
        raise ConfigError(f"nested more than {_DEEPEST} deep", source=source)
    if isinstance(data, dict):
        return Mapping([(Scalar(str(k), str(k)), from_data(v, source, depth + 1)) for k, v in data.items()])
    if isinstance(data, list | tuple):
        return Sequence([from_data(item, source, depth + 1) for item in data])
    if data is None or isinstance(data, bool | int | float | str):
        return Scalar(data, str(data))
    raise ConfigError(f"holds a {type(data).__name__}, which YAML has not", source=source)


def to_data(node: Node | None) -> Any:
    """The tree as plain dicts, lists and scalars."""
    if isinstance(node, Mapping):
        return {key.text: to_data(value) for key, value in node.entries}
    if isinstance(node, Sequence):
        return [to_data(item) for item in node.items]
    return node.value if node else None
