"""The documents, comments and docstrings are plain English: turns that make a reader stop are counted."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sage_inference"
PAGES = (
    ROOT / "README.md",
    ROOT / ".github" / "CONTRIBUTING.md",
    PACKAGE / "ARCHITECTURE.md",
    *sorted((PACKAGE / "docs").glob("*.md")),
)
# Turns per 1,000 words of comments and docstrings. It may only fall: lower it when you have mended some.
CODE_AT_MOST = 0.1
# Rooms that were rewritten as a whole; ``.`` stands for the modules beside the rooms.
ROOMS = (
    ".",
    "bench",
    "cli",
    "client",
    "config",
    "control_plane",
    "control_plane/accounting",
    "control_plane/embedding",
    "control_plane/instances",
    "control_plane/policies",
    "control_plane/queue",
    "daemon",
    "engines",
    "gateway",
    "gateway/api",
    "gateway/embeddings",
    "gateway/relay",
    "keeper",
    "library",
    "log_files",
    "replay",
    "requests",
    "simulator",
    "telemetry",
    "wire",
)
ROOM_AT_MOST = 0.3

_START = r"(?:^|(?<=[.!?:]\s)|(?<=\n\n))[\s*>|\d.-]*"
TURNS = {
    # Of code: it returns, reports, sends. "to tell apart" and the like are counted as well.
    "tells, says": re.compile(r"\b(?:tells?|told|says?|said)\b", re.I),
    "a sentence that begins with who or what": re.compile(
        _START + r"(?:Who|Whom|Whose|Whoever|What|Whatever)\b(?![^.!:]*\?)"
    ),
    "for as because": re.compile(r"[,;:] for\b(?! (?:example|instance|that reason)\b)"),
}


def turns(text: str) -> list[str]:
    """The turns in ``text``, each with the words around it."""
    return [
        f"{name}: …{text[max(0, found.start() - 40) : found.end() + 40]}…".replace("\n", " ")
        for name, pattern in TURNS.items()
        for found in pattern.finditer(text)
    ]


def words(text: str) -> int:
    return len(re.findall(r"[A-Za-z][A-Za-z'-]*", text))


def prose(page: Path) -> str:
    """The page without code. The document's own quotations of forbidden words are in italics, and left out."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    return re.sub(r"`[^`]*`|\*[a-z][^*]*\*", "X", text)


def comments(source: str) -> Iterator[str]:
    """The comments and docstrings of a module; lines of comment that follow one another are one text."""
    block: list[str] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                yield " ".join(block)
                block = []
            block.append(token.string.lstrip("#: "))
            last = token.start[0]
    yield " ".join(block)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_document_has_none_of_these_turns(page: Path) -> None:
    assert turns(prose(page)) == []


@functools.cache  # a module is looked at for its room and for the whole
def counted(file: Path) -> tuple[int, list[str]]:
    """The words of a module's comments and docstrings, and the turns."""
    texts = list(comments(file.read_text()))
    return sum(map(words, texts)), [turn for text in texts for turn in turns(text)]


def turns_in(files: Iterable[Path]) -> tuple[float, list[str]]:
    """The turns per 1,000 words of comments and docstrings, and the turns themselves."""
    counts, found = zip(*map(counted, files), strict=True)
    return 1000 * sum(map(len, found)) / sum(counts), [turn for some in found for turn in some]


def test_code_has_no_more_of_them_than_before() -> None:
    rate, found = turns_in(PACKAGE.rglob("*.py"))
    assert rate <= CODE_AT_MOST, f"{rate:.2f} in 1,000 words, for example: {found[-20:]}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_rewritten_room_stays_plain(room: str) -> None:
    rate, found = turns_in((PACKAGE / room).glob("*.py" if room == "." else "**/*.py"))
    assert rate <= ROOM_AT_MOST, f"{rate:.2f} in 1,000 words: {found}"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("The head tells its length.", 1),
        ("It waits, for nobody knows.", 1),
        ("It waits for a slot, for example this one.", 0),
        ("Who leaves is forgotten.", 1),
        ("It ends. Whoever waits gets nothing.", 1),
        ("- What was read is kept.", 1),
        ("What would another policy do?", 0),
        ("The reason why, and what follows.", 0),
        ("Callers are notified. A caller that leaves is forgotten.", 0),
    ],
)
def test_the_count_finds_the_turn_and_leaves_other_words(text: str, count: int) -> None:
    assert len(turns(text)) == count
