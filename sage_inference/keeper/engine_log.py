"""An engine's log for its readers: the lines of one start, and the last lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sage_inference.keeper import files
from sage_inference.log_files.reader import Log

_ALL = 1 << 62


class StartLog:
    """The lines since the engine was started that runs, or ran last, in this directory. ``close`` it in the end."""

    def __init__(self, directory: Path) -> None:
        mark = (files.read(str(directory), files.ENGINE) or {}).get("log_mark") or {}
        self._log = Log(directory / files.LOG)
        identity = int(mark.get("device", 0)), int(mark.get("inode", 0))
        self._log.start_at(identity, int(mark.get("offset", 0)))

    def read(self) -> list[str]:
        """The lines since the last call. Does not wait."""
        return [_text(line) for line in self._log.new(_every)]

    def close(self) -> None:
        self._log.close()


def follow(directory: Path, *, lines: int | None, follow: bool) -> Iterator[str]:
    """The last ``lines`` of the log, None for all, and with ``follow`` those that come, through rotations."""
    with Log(directory / files.LOG) as log:
        yield from map(_text, log.last(_ALL if lines is None else lines, _every))
        if follow:
            yield from map(_text, log.follow(_every))


def _every(_: bytes) -> bool:
    return True


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\n")
