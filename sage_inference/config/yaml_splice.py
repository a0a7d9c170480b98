"""Changes one value in YAML text. All other bytes stay, most of all the comments.

Libraries that write YAML back attach each comment to the key *before* it, so that the comment about a key is
lost with its neighbour. This module cuts and splices the text itself, at the places that the tree records.
"""

from __future__ import annotations

import re
from typing import Any

from sage_inference.config.errors import ConfigError
from sage_inference.config.own_comments import own_comments
from sage_inference.config.scalars import is_block, lines, word
from sage_inference.config.schema import Step, join, keys, shape_at
from sage_inference.config.tree import Mapping, Node, Scalar, Sequence, read, to_data

Steps = tuple[Step, ...]

_ENDS_LINE = re.compile(r"\s*,?\s*(#.*\s*)?")  # what may follow an entry in [ ] or { } on its last line


def put(text: str, steps: Steps, value: Any, source: str = "") -> str:
    """``text`` with ``value`` at ``steps``. Missing sections on the path are made. Raises ``ConfigError``."""
    root = read(text, source)
    _refuse_shared(root, steps)
    data = _changed(to_data(root), steps, value)
    return _proven(_Surgeon(text).put(root, steps, data), data, steps)


def find(text: str, steps: Steps, source: str = "") -> Node | None:
    """The value at ``steps``, or None if there is none. Raises ``ConfigError``."""
    return _at(read(text, source), steps)


def cut(text: str, steps: Steps, source: str = "") -> str | None:
    """``text`` without the value at ``steps`` and its comments, or None if there was none. Raises ``ConfigError``."""
    root = read(text, source)
    holder = _at(root, steps[:-1])
    if not isinstance(holder, Mapping | Sequence) or _child(holder, steps[-1]) is None:
        return None
    _refuse_shared(root, steps)
    before = to_data(root)
    bare = text
    for begin, end in _Surgeon(text).comments_of(holder, steps):
        bare = bare[:begin] + bare[end:]
    text = _proven(bare, before, steps)
    root = read(text, source)
    holder = _at(root, steps[:-1])
    assert isinstance(holder, Mapping | Sequence)  # as before: the data are the same
    if len(steps) > 1 and len(_children(holder)) == 1:
        # The section stays, empty, with the comments that are its own.
        data = _changed(before, steps[:-1], {} if isinstance(holder, Mapping) else [])
        return _proven(_Surgeon(text).put(root, steps[:-1], data), data, steps)
    return _proven(_Surgeon(text).cut(holder, steps[-1]), _without(before, steps), steps)


def _refuse_shared(root: Node | None, steps: Steps) -> None:
    """Raises ``ConfigError`` for a place within an alias, because its text belongs to other places too."""
    node = root
    for at, step in enumerate(steps):
        node = _child(node, step)
        if node is not None and node.is_alias and at < len(steps) - 1:
            shared = join(steps[: at + 1])
            raise ConfigError(
                f"{join(steps)} cannot be set alone: {shared} is an alias (*name) of a value that is shared",
                key=join(steps),
                hint=f"set {shared} as a whole, or sage inference config edit opens the file in an editor",
            )


def _changed(data: Any, steps: Steps, value: Any) -> Any:
    """``data`` with ``value`` at ``steps``. Raises ``ConfigError`` for an index beyond a list's end."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        entries = dict(data) if isinstance(data, dict) else {}
        return entries | {step: _changed(entries.get(step), rest, value)}
    items = list(data) if isinstance(data, list) else []
    if step > len(items):
        raise ConfigError(
            f"entry [{step}] cannot be set: the list has {len(items)} entries",
            hint=f"the next is [{len(items)}]",
        )
    items[step : step + 1] = [_changed(items[step] if step < len(items) else None, rest, value)]
    return items


def _without(data: Any, steps: Steps) -> Any:
    copy: Any = dict(data) if isinstance(data, dict) else list(data)
    if len(steps) == 1:
        del copy[steps[0]]
    else:
        copy[steps[0]] = _without(copy[steps[0]], steps[1:])
    return copy


def _proven(text: str, data: Any, steps: Steps) -> str:
    """``text`` if it reads as exactly ``data``. This guards against forms of YAML that the splicing does not know."""
    try:
        said = to_data(read(text, ""))
    except ConfigError:
        said = ...
    if _canonical(said or None) != _canonical(data or None):
        raise ConfigError(
            f"{join(steps)} cannot be changed in place, the way the file is written",
            key=join(steps),
            hint="sage inference config edit opens it in an editor",
        )
    return text


def _canonical(data: Any) -> str:
    """A text that is equal for equal data. Merged keys change the order of keys, so it does not count.

    1, 1.0 and true differ.
    """
    if isinstance(data, dict):
        return "{" + ",".join(sorted(f"{key!r}:{_canonical(value)}" for key, value in data.items())) + "}"
    if isinstance(data, list):
        return "[" + ",".join(map(_canonical, data)) + "]"
    return repr(data)


def _children(node: Mapping | Sequence) -> list[tuple[Step, Node]]:
    if isinstance(node, Mapping):
        return [(name.text, value) for name, value in node.written]
    return list(enumerate(node.items))


def _child(node: Node | None, step: Step) -> Node | None:
    if not isinstance(node, Mapping | Sequence):
        return None
    return next((value for name, value in _children(node) if name == step), None)


def _at(node: Node | None, steps: Steps) -> Node | None:
    for step in steps:
        node = _child(node, step)
    return node


class _Surgeon:
    """The operations on one text. An end is the offset just after the last significant character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.newline = "\r\n" if "\r\n" in text else "\n"

    def put(self, root: Node | None, steps: Steps, data: Any) -> str:
        """The text of ``data``, which differs from the present data at ``steps`` alone."""
        if root is None or (isinstance(root, Scalar) and root.value is None):
            return self._closed(self.text) + self._block(data, 0) + self.newline
        holder: Node | None = None
        node = root
        for at, step in enumerate(steps):
            below = _child(node, step)
            if below is None:
                if isinstance(node, Mapping | Sequence) and _children(node):
                    new = {step: data[step]} if isinstance(node, Mapping) else [data[step]]
                    return self._insert(node, new)
                # The node is empty, null, or an entry written as a single text: write all of it anew.
                return self._replace(holder, node, steps[at - 1], data)
            holder, node, data = node, below, data[step]
        return self._replace(holder, node, steps[-1], data)

    def cut(self, holder: Mapping | Sequence, step: Step) -> str:
        """The text without one of several entries of ``holder``."""
        starts = [self._start(holder, name) for name, _ in _children(holder)]
        names = [name for name, _ in _children(holder)]
        at = names.index(step)
        start, end = starts[at], self._end(_children(holder)[at][1])
        following = starts[at + 1] if at + 1 < len(starts) else None
        if not holder.flow:
            return self._cut_lines(start, end, following)
        first, rest = self._line_start(start), self._line_end(end)
        if not self.text[first:start].strip() and _ENDS_LINE.fullmatch(self.text[end:rest]):
            return (
                self.text[:first] + self.text[rest:]
            )  # lines of its own; the comments of its neighbours stay
        if following is not None:
            return self.text[:start] + self.text[following:]
        previous = self._end(_children(holder)[at - 1][1]) if at else start
        return self.text[:previous] + self.text[end:]

    def comments_of(self, holder: Mapping | Sequence, steps: Steps) -> list[tuple[int, int]]:
        """The spans of the comments that belong to an entry of ``holder`` alone, the last first."""
        entries = _children(holder)
        at = [name for name, _ in entries].index(steps[-1])
        node = entries[at][1]
        start = self._start(holder, steps[-1])
        is_block = isinstance(node, Mapping | Sequence) and not node.flow and _children(node)
        shape = shape_at(steps[:-1])
        return own_comments(
            self.text,
            start,
            self._end(node),
            floor=self._end(entries[at - 1][1]) if at else 0,
            inner=self._column(node) if is_block else None,  # type: ignore[arg-type]
            others=keys(shape.section).keys() - {steps[-1]} if shape and shape.section else (),
        )

    def _cut_lines(self, start: int, end: int, following: int | None) -> str:
        """The text without the lines of an entry and the comment beside it. Comments between entries stay."""
        first, rest = self._line_start(start), self._line_end(end)
        if following is None or not self.text[first:start].strip():
            return self.text[:first] + self.text[rest:]
        # The first key of a list's entry shares its line with the dash, which then belongs to the next key.
        comments = self.text[rest : self._line_start(following)].strip()
        lead = comments + self.newline + " " * (start - first) if comments else ""
        return self.text[:start] + lead + self.text[following:]

    def _replace(self, holder: Node | None, node: Node, step: Step, data: Any) -> str:
        start, end = node.start.index, self._end(node)
        if holder is None:  # the whole document is an empty section
            return self.text[:start] + self._block(data, 0) + self.text[end:]
        if isinstance(holder, Mapping):
            key = next(name for name, _ in holder.written if name.text == step)
            if not holder.flow:
                return self._replace_beside(key, node, data)
        if start == end and self.text[start - 1 : start] in (":", "-"):
            return self.text[:start] + " " + word(data) + self.text[end:]
        inline = not is_block(data) or isinstance(holder, Mapping) or holder.flow  # type: ignore[union-attr]
        new = word(data) if inline else self._block(data, node.start.column).lstrip()
        return self.text[:start] + new + self.text[end:]

    def _replace_beside(self, key: Scalar, node: Node, data: Any) -> str:
        """The text with a new value for ``key`` in a block. Comments beside the key and above its value stay."""
        start, end = node.start.index, self._end(node)
        colon = self.text.find(":", key.end.index) + 1
        block = is_block(data)
        inline = "" if block else " " + word(data)
        below = self._block(data, key.start.column + 2) + self.newline if block else ""
        rest = self._line_end(end)
        if node.start.line == key.end.line:
            tail = self.text[end:rest]
            return (
                self.text[:colon]
                + inline
                + (self._closed(tail) if block else tail)
                + below
                + self.text[rest:]
            )
        first = self._line_start(start)
        return self.text[:colon] + inline + self.text[colon:first] + below + self.text[rest:]

    def _insert(self, node: Mapping | Sequence, new: Any) -> str:
        """The text with ``new`` after the last entry of a collection, in the collection's own form."""
        end = self._end(_children(node)[-1][1])
        if node.flow:
            return self.text[:end] + ", " + word(new)[1:-1] + self.text[end:]
        rest = self._line_end(end)
        return (
            self._closed(self.text[:rest])
            + self._block(new, self._column(node))
            + self.newline
            + self.text[rest:]
        )

    def _start(self, holder: Mapping | Sequence, step: Step) -> int:
        """The offset of an entry: of its key, of its dash, or in ``[ ]`` of the value itself."""
        if isinstance(holder, Mapping):
            return next(name for name, _ in holder.written if name.text == step).start.index
        start = holder.items[int(step)].start.index
        return start if holder.flow else self.text.rfind("-", 0, start)

    def _column(self, node: Mapping | Sequence) -> int:
        """The column of a block's entries. The block's own start may be an anchor."""
        start = self._start(node, _children(node)[0][0])
        return start - self._line_start(start)

    def _end(self, node: Node) -> int:
        """A node's end. The parser's end of a block lies after the comments that follow it."""
        if isinstance(node, Scalar):
            return len(self.text[: node.end.index].rstrip()) if node.block else node.end.index
        inner = _children(node)
        return self._end(inner[-1][1]) if inner and not node.flow else node.end.index

    def _block(self, data: Any, column: int) -> str:
        return self.newline.join(" " * column + line for line in lines(data))

    def _closed(self, text: str) -> str:
        """``text`` with a line break at its end. An empty text of an empty file stays empty."""
        return text if text.endswith("\n") or not (text or self.text) else text + self.newline

    def _line_start(self, at: int) -> int:
        return self.text.rfind("\n", 0, at) + 1

    def _line_end(self, at: int) -> int:
        """The offset just after the line that holds ``at``."""
        found = self.text.find("\n", at)
        return len(self.text) if found < 0 else found + 1
