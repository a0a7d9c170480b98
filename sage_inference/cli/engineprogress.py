"""The progress of starting engines on stderr: bars on a terminal, a line for each phase in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TextIO

from sage_inference.cli import enginetext, terminal
from sage_inference.cli.enginetext import Document
from sage_inference.visible import visible

_BAR = 24  # characters, where there is room
_LEAST_BAR = 8
_AGAIN_S = 60.0  # between two lines of one phase without a terminal
_PHASE = max(map(len, enginetext.PHASES.values()))
_QUIET = ("off", "ready")


class AboveProgress:
    """A standard error. Text written to it appears above the bars while there are some."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.target: Any = stream

    def write(self, text: str) -> int:
        self.target.write(text)
        return len(text)

    def flush(self) -> None:
        self.target.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class EngineProgress:
    """Shows the engines that ``show`` gets. The display is gone after the ``with`` block; lines of a pipe stay."""

    def __init__(self, above: AboveProgress | None = None) -> None:
        """``above`` is a standard error that others write to meanwhile."""
        self._lines: dict[str, tuple[str, float]] = {}
        self._live: Any = None
        self._above = above

    def __enter__(self) -> EngineProgress:
        if terminal.is_live():
            self._live = _live(sys.stderr if self._above is None else self._above.stream)
            self._live.start()
            if self._above is not None:
                from rich.file_proxy import FileProxy

                self._above.target = FileProxy(self._live.console, self._above.stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._above is not None:
            self._above.target = self._above.stream
        if self._live is not None:
            self._live.stop()

    def show(self, engines: Sequence[Document]) -> None:
        if self._live is None:
            self._write(engines)
            return
        from rich.text import Text

        shown = [each for each in engines if each["state"] != "off"]
        lines = bars(shown, self._live.console.width, plain=not _has_blocks())
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)

    def _write(self, engines: Sequence[Document]) -> None:
        """A line for each engine whose phase is another, and one a minute for each that stays in its phase."""
        now = time.monotonic()
        for each in engines:
            name, step = each["name"], _step(each)
            before, at = self._lines.get(name, ("", 0.0))
            if step == before and (now - at < _AGAIN_S or each["state"] in _QUIET):
                continue
            if not before and each["state"] in _QUIET:
                continue
            self._lines[name] = (step, now)
            terminal.talk(f"{name}: {_details(each)}")


def _live(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, highlight=False)
    return Live(
        console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
    )


def _has_blocks() -> bool:
    """Whether stderr can write the characters of a bar."""
    try:
        "━…".encode(sys.stderr.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _step(engine: Document) -> str:
    """Changes with the state and the phase, and with each failure, but not with the percentage."""
    failure = engine.get("failure") or {}
    return f"{engine['state']} {enginetext.phase(engine)} {failure.get('message')}"


def _details(engine: Document) -> str:
    """``loading 48%, shard 2 of 4, 0:41 of ~1:30``."""
    failure = engine.get("failure")
    if failure and engine["state"] in ("failed", "waiting"):
        return f"{enginetext.state(engine)}: {failure['message']}"
    parts = [enginetext.state(engine), engine.get("detail") or ""]
    if engine["state"] == "starting":
        parts.append(enginetext.taken(engine))
    return ", ".join(part for part in parts if part)


def bars(engines: Sequence[Document], width: int, *, plain: bool = False) -> list[str]:
    """A line of at most ``width`` characters for each engine: name, phase, bar, percentage, time and detail.

    In a narrow terminal the bar is left out first, then the detail is cut off. ``plain`` is for terminals without
    the characters of a bar.
    """
    longest = max((len(str(each["name"])) for each in engines), default=0)
    names = min(longest, max(width // 3, 8))
    return [_bar_line(each, width, names, plain) for each in engines]


def _bar_line(engine: Document, width: int, names: int, plain: bool) -> str:
    name = _cut(visible(str(engine["name"])), names, plain).ljust(names)
    if engine["state"] != "starting":
        return _cut(f"{name}  {visible(_details(engine))}", width, plain)
    word, done = enginetext.phase(engine) or "starting", enginetext.share(engine)
    percent = "    " if done is None else f"{done:4.0%}"
    tail = "  ".join(part for part in (enginetext.taken(engine), visible(engine.get("detail") or "")) if part)
    line = f"{name}  {word.ljust(_PHASE)}  "
    room = width - len(line) - len(percent) - 3 - len(tail)
    size = min(_BAR, room)
    if size >= _LEAST_BAR:
        line += f"{_bar(done, size, plain)} "
    return _cut(f"{line}{percent}  {tail}", width, plain).rstrip()


def _bar(done: float | None, size: int, plain: bool) -> str:
    full, rest = ("#", ".") if plain else ("━", "╌")
    filled = round(size * (done or 0.0))
    return full * filled + rest * (size - filled)


def _cut(text: str, size: int, plain: bool) -> str:
    end = "..." if plain else "…"
    return text if len(text) <= size else text[: max(size - len(end), 0)] + end
