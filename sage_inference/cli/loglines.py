"""The lines of a log that rotates by size: its last ones, and those being written."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

Fits = Callable[[bytes], bool]
_POLL_S = 0.1


def record(line: bytes) -> dict[str, Any]:
    """The line as logged; one that is no JSON object (an interpreter's last words) is a message alone."""
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {"time": None, "level": None, "message": text}


class Log:
    """The log at ``path`` and its rotated parts ``path.1``, ``path.2`` …, the higher the older."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._partial = b""

    def __enter__(self) -> Log:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def last(self, count: int, fits: Fits) -> list[bytes]:
        """The last ``count`` lines that fit, oldest first. ``follow`` goes on just behind them."""
        count = min(count, sys.maxsize)  # what a deque can count to
        found = list(deque((line for line in self._new_lines() if fits(line)), count))
        for part in self._older():
            if len(found) >= count:
                break
            # A part can vanish while the log rotates: it was the oldest.
            with suppress(FileNotFoundError), part.open("rb") as file:
                found[:0] = deque((line for line in file if fits(line)), count - len(found))
        return found

    def follow(self, fits: Fits) -> Iterator[bytes]:
        """Lines as they are written, for ever. A rotated file is read to its end before the new one."""
        while True:
            # Asked before reading: all that was written until it rotated is then still read.
            rotated = self._is_rotated()
            yield from filter(fits, self._new_lines())
            if rotated:
                self._open()
            else:
                time.sleep(_POLL_S)

    def _new_lines(self) -> Iterator[bytes]:
        """Whole lines written since the last time; half a line waits for its other half."""
        for piece in self._file or ():
            self._partial += piece
            if piece.endswith(b"\n"):
                line, self._partial = self._partial, b""
                yield line

    def _open(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        with suppress(FileNotFoundError):
            self._file = self._path.open("rb")

    def _is_rotated(self) -> bool:
        """Whether the log's name stands for another file than the one we read."""
        try:
            return not self._reads(self._path)
        except FileNotFoundError:
            return False  # between two renames, or not written yet

    def _reads(self, path: Path) -> bool:
        there = path.stat()
        here = os.fstat(self._file.fileno()) if self._file is not None else None
        return here is not None and (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def _older(self) -> Iterator[Path]:
        """Rotated parts, the newest first, without the one that we hold if it rotated just now."""
        parts = [p for p in self._path.parent.glob(f"{self._path.name}.*") if p.suffix[1:].isdecimal()]
        for part in sorted(parts, key=lambda part: int(part.suffix[1:])):
            with suppress(FileNotFoundError):
                if not self._reads(part):
                    yield part
