"""A benchmark's progress on stderr: a changing line on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from sage_inference.cli import terminal

_EVERY_S = 10.0  # without a terminal
_OLD_S = 5.0  # a request this old is shown, because the run may be waiting for it alone


class ProgressDisplay:
    """A listener of ``bench.run``."""

    def __init__(self) -> None:
        self._live = terminal.is_live()
        self._shown_s = 0.0

    def step(self, what: str) -> None:
        self._write(f"{what} …")

    def progress(self, progress: Any) -> None:
        if self._live:
            self._write(_line(progress))
        elif progress.elapsed_s - self._shown_s >= _EVERY_S:
            self._shown_s = progress.elapsed_s
            terminal.talk(_line(progress))

    def _write(self, text: str) -> None:
        if not self._live:
            terminal.talk(text)
            return
        terminal.rewrite(text)

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            terminal.rewrite("")


def _line(progress: Any) -> str:
    share = "" if progress.share is None else f"{progress.share:4.0%}  "
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    oldest = f" (the oldest for {progress.oldest_s:.0f} s)" if progress.oldest_s >= _OLD_S else ""
    return (
        f"{share}{progress.elapsed_s:.0f} s  {progress.ok:,} ok{failed}, {progress.in_flight:,} in flight{oldest}, "
        f"{progress.per_s:,.0f}/s"
    )
