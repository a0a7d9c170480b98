"""``logs``: the gateway's log, for people or for scripts."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from sage_inference.cli import terminal
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import NoColor, check_choice

app = plain_app()
_POLL_S = 0.1
_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}


@app.command(cls=PlainCommand)
def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="Last lines to show.")
    ] = 100,
    level: Annotated[str | None, typer.Option(metavar="LEVEL", help="Least severe level to show.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The JSON lines as they are.")] = False,
    no_color: NoColor = False,
) -> None:
    """Show the gateway's log.

    \b
    Examples:
      sage inference logs -n 20
      sage inference logs --follow --level warning
    """
    from sage_inference.config.paths import Paths
    from sage_inference.config.settings import LOG_LEVELS

    if level is not None:
        check_choice("level", level, LOG_LEVELS)
    wanted = set((*LOG_LEVELS, "critical")[LOG_LEVELS.index(level) :]) if level else None
    path = Paths.resolve().log_file
    for raw in _all_lines(path, lines, follow, wanted):
        _print(raw, as_json)


def _all_lines(path: Path, count: int, follow: bool, wanted: set[str] | None) -> Iterator[str]:
    last: deque[str] = deque(maxlen=count)
    current: TextIO | None = None
    for part in _parts(path):
        if current is not None:
            current.close()
        # The last one stays open: what follows is read on from here, and no line falls between.
        current = part.open(encoding="utf-8", errors="replace")
        last.extend(line for line in current if _fits(line, wanted))
    yield from last
    if follow:
        for line in _followed(path, current):
            if _fits(line, wanted):
                yield line


def _parts(path: Path) -> list[Path]:
    """The rotated logs, oldest first, and the current one."""
    old = [p for p in path.parent.glob(path.name + ".*") if p.suffix[1:].isdigit()]
    old.sort(key=lambda p: -int(p.suffix[1:]))
    return [*old, path] if path.exists() else old


def _followed(path: Path, file: TextIO | None) -> Iterator[str]:
    """Lines as they are written; a rotated log is read to its end, then the new one."""
    partial = ""
    while True:
        line = file.readline() if file is not None else ""
        if line:
            partial += line
            if partial.endswith("\n"):
                yield partial
                partial = ""
            continue
        if path.exists() and (file is None or path.stat().st_ino != _inode(file)):
            if file is not None:
                file.close()
            file = path.open(encoding="utf-8", errors="replace")
            continue
        time.sleep(_POLL_S)


def _inode(file: Any) -> int:
    import os

    return os.fstat(file.fileno()).st_ino


def _fits(line: str, wanted: set[str] | None) -> bool:
    return wanted is None or _parsed(line).get("level") in wanted


def _parsed(line: str) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {"message": line.rstrip("\n")}


def _print(line: str, as_json: bool) -> None:
    if as_json:
        terminal.say(line.rstrip("\n"))
        return
    document = _parsed(line)
    level = str(document.get("level", ""))
    moment = str(document.get("time", ""))[:19].replace("T", " ")
    words = [part for part in (moment, level, str(document.get("message", ""))) if part]
    terminal.say(" ".join(words), style=_COLOURS.get(level))
    if "exception" in document:
        terminal.say(str(document["exception"]))
