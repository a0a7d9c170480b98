"""Markdown as text for a terminal, by Rich, without a cell or a command that is cut off."""

from __future__ import annotations

import re
from io import StringIO
from textwrap import indent
from typing import Any, ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, TableElement
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

# Rich's own styles have a black background, which is a bar on a light terminal.
_THEME = Theme(
    {
        "markdown.code": "bold cyan",
        "markdown.code_block": "cyan",
        "markdown.h1": "bold underline",
        "markdown.h2": "bold magenta",
        "markdown.h3": "bold",
        "markdown.h4": "bold",
    }
)


class _Heading(Heading):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _CodeBlock(CodeBlock):
    """A code block whose long lines are left to the terminal to wrap, so that they can be copied."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = indent(str(self.text).rstrip(), "  ")
        yield Text(text, style="markdown.code_block", no_wrap=True, overflow="ignore")


class _Table(TableElement):
    """A table that folds long words, which Rich would end in ``…``, and keeps a column of single words whole."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table):
                for column in part.columns:
                    column.overflow = "fold"
                first = part.columns[0]
                words = [str(cell) for cell in first.cells]
                narrow = max(map(len, words)) <= options.max_width // 2
                first.no_wrap = narrow and not any(" " in word for word in words)
            yield part


class _Document(Markdown):
    elements: ClassVar[dict[str, Any]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
        "table_open": _Table,
    }


def formatted(text: str, *, width: int, coloured: bool) -> str:
    """``text`` in lines of at most ``width`` characters, code blocks aside."""
    out = StringIO()
    console = Console(
        file=out,
        force_terminal=coloured,
        color_system="standard" if coloured else None,
        theme=_THEME,
        width=width,
        legacy_windows=False,
    )
    # Links keep their address in the text: not every pager passes a terminal's hyperlinks on.
    console.print(_Document(text, hyperlinks=False), crop=False)
    lines = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n") + "\n"
