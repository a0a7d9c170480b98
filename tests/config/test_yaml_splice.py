"""One value changes in the text; every byte that says something else stays."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.config.errors import ConfigError
from sage_inference.config.scalars import word
from sage_inference.config.schema import Step
from sage_inference.config.tree import read, to_data
from sage_inference.config.yaml_splice import cut, put

TEXT = """\
# head
model: x  # beside model

# about other
other: "y"
list:   # beside list
# above the first
- url: h:1
  name: b   # beside name
- url: h:2
# about empty
empty: []
flow: {a: 1, b: [2, 3], c: }
text: |
  two
  lines
# the end
"""


@pytest.mark.parametrize(
    ("steps", "value", "old", "new"),
    [
        (("model",), "z", "model: x  #", "model: z  #"),
        (("model",), "yes", "model: x", 'model: "yes"'),
        (("other",), None, 'other: "y"', "other: null"),
        (("list", 1, "url"), "h:3", "- url: h:2", "- url: h:3"),
        (("list", 1, "name"), "c", "- url: h:2\n", "- url: h:2\n  name: c\n"),
        (("list", 2), {"url": "h:4"}, "- url: h:2\n", "- url: h:2\n- url: h:4\n"),
        (("list", 0), "h:9", "- url: h:1\n  name: b   #", "- h:9   #"),
        (("empty", 0), {"url": "h"}, "empty: []", "empty:\n  - url: h"),
        (("empty",), ["p", "q"], "empty: []", "empty: [p, q]"),
        (("flow", "a"), 9, "{a: 1,", "{a: 9,"),
        (("flow", "c"), 9, "c: }", "c: 9}"),
        (("flow", "d"), 9, "c: }", "c: , d: 9}"),
        (("flow", "b", 2), 4, "[2, 3]", "[2, 3, 4]"),
        (("text",), "one", "text: |\n  two\n  lines\n", "text: one\n"),
        (("new", "deep"), 1, "  lines\n", "  lines\nnew:\n  deep: 1\n"),
        (
            ("list",),
            [{"url": "n"}],
            "- url: h:1\n  name: b   # beside name\n- url: h:2\n",
            "  - url: n\n",
        ),
        (
            ("list",),
            [],
            TEXT[TEXT.index("list:") : TEXT.index("# about empty")],
            "list: []   # beside list\n# above the first\n",
        ),
    ],
    ids=str,
)
def test_a_value_is_put_in_its_place(steps: tuple[Step, ...], value: Any, old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    assert put(TEXT, steps, value) == TEXT.replace(old, new)
    windows = TEXT.replace("\n", "\r\n")
    assert put(windows, steps, value) == TEXT.replace(old, new).replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("steps", "old", "new"),
    [
        (("model",), "model: x  # beside model\n", ""),
        (("other",), '# about other\nother: "y"\n', ""),
        (("list", 0), "# above the first\n- url: h:1\n  name: b   # beside name\n", ""),
        (("list", 0, "name"), "  name: b   # beside name\n", ""),
        (("list", 0, "url"), "- url: h:1\n  name", "- name"),
        (("flow", "a"), "{a: 1, b", "{b"),
        (("flow", "b", 1), "[2, 3]", "[2]"),
        (("flow", "b", 0), "[2, 3]", "[3]"),
        (("text",), "text: |\n  two\n  lines\n", ""),
    ],
    ids=str,
)
def test_an_entry_is_cut_out(steps: tuple[Step, ...], old: str, new: str) -> None:
    assert cut(TEXT, steps) == TEXT.replace(old, new)


@pytest.mark.parametrize(
    ("before", "steps", "after"),
    [
        ("a:\n  # why\n  b: 1\n", ("a", "b"), "a: {}\n"),
        ("a:\n  # all\n\n  # why\n  b: 1\n", ("a", "b"), "a: {}\n  # all\n\n"),
        ("a:  # x\n  b:\n    c: 1\n    # tail\n  # of a\nd: 1\n", ("a", "b"), "a: {}  # x\n  # of a\nd: 1\n"),
        ("a: [1]\n", ("a", 0), "a: []\n"),
        ("# all\na: 1\n", ("a",), "# all\n"),
        ("- b: 1 # x\n  # about c\n  c: 2\n", (0, "b"), "- # about c\n  c: 2\n"),
    ],
)
def test_the_last_entry_leaves_an_empty_section(before: str, steps: tuple[Step, ...], after: str) -> None:
    assert cut(before, steps) == after


SERVER = ("server", "port")


@pytest.mark.parametrize(
    ("before", "steps", "after"),
    [
        ("a: 1\n# about b\nb: 2\n# about c\nc: 3\n", ("b",), "a: 1\n# about c\nc: 3\n"),
        ("a: 1\n# one\n# two\n#\nb: 2\n", ("b",), "a: 1\n"),
        ("a: 1\n# a group\n\n# about b\nb: 2\nc: 3\n", ("b",), "a: 1\n# a group\n\nc: 3\n"),
        ("a: 1\n# before a blank line\n\nb: 2\n", ("b",), "a: 1\n# before a blank line\n\n"),
        ("# the file\na: 1\nb: 2\n", ("a",), "# the file\nb: 2\n"),
        ("# the file\n\n# about a\na: 1\nb: 2\n", ("a",), "# the file\n\nb: 2\n"),
        ("---\n# about a\na: 1\nb: 2\n", ("a",), "---\nb: 2\n"),
        ("x:\n  a: 1\n  # in x\n# about b\nb: 2\n", ("b",), "x:\n  a: 1\n  # in x\n"),
        ("x:\n  a: 1\n  # in x\nb: 2\n", ("x",), "b: 2\n"),
        ("x:\n  a: 1\n\n  # in x\n  # too\n\n# about b\nb: 2\n", ("x",), "\n# about b\nb: 2\n"),
        ("x:\n- a\n# about b\nb: 2\n", ("x",), "# about b\nb: 2\n"),
        ("x:\n- a: 1\n  # in it\n# about the next\n- a: 2\n", ("x", 0), "x:\n# about the next\n- a: 2\n"),
        ("x:\n  # first\n  - a\n  # second\n  - b\n", ("x", 1), "x:\n  # first\n  - a\n"),
        ("x:\n  # about a\n  a: 1\n  # about b\n  b: 1\n", ("x", "a"), "x:\n  # about b\n  b: 1\n"),
        ("a: |\n  # text\n# about b\nb: 2\nc: 3\n", ("b",), "a: |\n  # text\nc: 3\n"),
        ("a: 'x\n  # y'\n# about b\nb: 2\n", ("b",), "a: 'x\n  # y'\n"),
        ("a: 1\n# about b\nb:\n  # text\n  - 1\n", ("b",), "a: 1\n"),
        ("server:\n  # host: h\n  # about port\n  port: 1\n  insecure: true\n", SERVER,
         "server:\n  # host: h\n  insecure: true\n"),
        ("server:\n  # port: 2\n  # note: this\n  port: 1\n  insecure: true\n", SERVER,
         "server:\n  insecure: true\n"),
        ("{\n  a: 1,  # beside a\n  # about b\n  b: 2,  # beside b\n  # about c\n  c: 3\n}\n", ("b",),
         "{\n  a: 1,  # beside a\n  # about c\n  c: 3\n}\n"),
        ("{\n  a: 1,  # beside a\n  # about b\n  b: 2  # beside b\n}\n", ("b",), "{\n  a: 1,  # beside a\n}\n"),
        ("x: [\n  1,  # one\n  # about two\n  2\n  ]\n", ("x", 1), "x: [\n  1,  # one\n  ]\n"),
        ("x: [1,\n  2]\n", ("x", 1), "x: [1]\n"),
        ("x: {a: 1, b: 2}  # beside\n", ("x", "a"), "x: {b: 2}  # beside\n"),
    ],
)  # fmt: skip
def test_the_comments_of_an_entry_go_with_it_and_no_others(
    before: str, steps: tuple[Step, ...], after: str
) -> None:
    assert cut(before, steps) == after
    windows = before.replace("\n", "\r\n")
    if "|" not in before and "'" not in before:
        assert cut(windows, steps) == after.replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "a:\n  b: 1\n"),
        ("# only", "# only\na:\n  b: 1\n"),
        ("---\n", "---\na:\n  b: 1\n"),
        ("{}\n", "a:\n  b: 1\n"),
        ("a:\n", "a:\n  b: 1\n"),
        ("a:", "a:\n  b: 1\n"),
        ("a: {}  # c", "a:  # c\n  b: 1\n"),
        ("a:  # c\nz: 1\n", "a:  # c\n  b: 1\nz: 1\n"),
        ("z: 1", "z: 1\na:\n  b: 1\n"),
        ("a:\n    c: 1", "a:\n    c: 1\n    b: 1\n"),
    ],
)
def test_missing_sections_are_made_on_the_way(before: str, after: str) -> None:
    assert put(before, ("a", "b"), 1) == after


def test_what_cannot_be_changed_in_place_is_refused_not_spoiled() -> None:
    with pytest.raises(ConfigError, match="cannot be changed in place"):
        put("? a\n: {x: 1}\n? b\n# no value\n", ("b",), {"c": 1})


def test_what_is_not_there_cannot_be_cut() -> None:
    assert cut(TEXT, ("modle",)) is None
    assert cut(TEXT, ("list", 7)) is None
    assert cut(TEXT, ("model", "x")) is None
    assert cut("", ("a",)) is None


_WORDS = st.sampled_from(
    ["x", "yes", "5", "1e3", "010", "null", "a b", "h:1", "- x", "#", "'", '"', "é😀", "~", "{"]
)
_SCALARS = st.none() | st.booleans() | st.integers(-9, 9**9) | st.floats(0, 9) | _WORDS
_NAMES = st.sampled_from(["a", "b", "c", "d.e", "4", "on", "f g"])
_DATA = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(_SCALARS | _DATA)
def test_a_value_written_reads_as_itself(value: Any) -> None:
    assert repr(to_data(read(f"k: {word(value)}\n", ""))) == repr({"k": value})


class _Writer:
    """Writes data as YAML in ways drawn at random, with a numbered comment wherever one may stand."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.comments = 0

    def comment(self, before: str) -> str:
        if not self.draw(st.booleans()):
            return ""
        self.comments += 1
        return f"{before}# comment {self.comments}."

    def above(self, pad: str) -> list[str]:
        comment = self.comment(pad)
        return [*([comment] if comment else []), *([""] if self.draw(st.booleans()) else [])]

    def lines(self, value: Any, pad: str) -> list[str]:
        found: list[str] = []
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for name, entry in entries:
            found += self.above(pad)
            head = f"{pad}{word(str(name))}:" if isinstance(value, dict) else f"{pad}-"
            if isinstance(entry, dict | list) and entry and self.draw(st.booleans()):
                deeper = pad + " " * self.draw(st.integers(1, 4))
                found += [head + self.comment("  "), *self.lines(entry, deeper)]
            else:
                found.append(f"{head} {word(entry)}{self.comment(' ')}")
        return found


@st.composite
def _texts(draw: Any) -> tuple[str, Any]:
    data = draw(st.dictionaries(_NAMES, _DATA, min_size=1, max_size=4))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    lines = _Writer(draw).lines(data, "")
    return newline.join(lines) + draw(st.sampled_from([newline, ""])), data


def _paths(data: Any, before: tuple[Step, ...] = ()) -> list[tuple[Step, ...]]:
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path for name, entry in entries for path in ((*before, name), *_paths(entry, (*before, name)))]


def _comments(text: str) -> list[str]:
    return re.findall(r"# comment \d+\.", text)


@given(_texts(), st.data(), _DATA)
def test_any_value_can_be_put_and_no_comment_outside_it_is_lost(
    given_text: tuple[str, Any], data: st.DataObject, value: Any
) -> None:
    text, said = given_text
    steps = data.draw(st.sampled_from([*_paths(said), ("new",), ("new", "deep")]))
    after = put(text, steps, value)
    old: Any = said
    for step in steps:
        inner = dict(enumerate(old)) if isinstance(old, list) else old
        old = inner.get(step) if isinstance(inner, dict) else None
    if not isinstance(old, dict | list):
        assert _comments(after) == _comments(text)
    lost = [line for line in text.splitlines() if line.strip() and line not in after]
    assert isinstance(old, dict | list) or len(lost) <= 1


@given(_texts(), st.data())
def test_any_entry_can_be_cut_and_no_comment_before_or_behind_it_is_lost(
    given_text: tuple[str, Any], data: st.DataObject
) -> None:
    text, said = given_text
    steps = data.draw(st.sampled_from(_paths(said)))
    after = cut(text, steps)
    assert after is not None
    if len(said) > 1 and len(steps) == 1 and not isinstance(said[steps[0]], dict | list):
        assert len(_comments(text)) - len(_comments(after)) <= 2  # the one beside it, and the one above
    lines = text.splitlines()
    for above, line in itertools.pairwise(lines):
        if _comments(above) and above.lstrip().startswith("#") and not line.strip():
            assert above.strip() in after or len(steps) > 1 or isinstance(said[steps[0]], dict | list)
