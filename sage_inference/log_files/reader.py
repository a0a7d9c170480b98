"""The last lines of a log and its new ones, while it rotates, is truncated or removed."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from sage_inference.log_files.parts import Part, snapshot

Fits = Callable[[bytes], bool]
Pause = Callable[[float], None]
_IDLE_S = 0.1  # between two looks
_BUSY_S = 0.005  # while lines come
_BUSY_FOR_S = 0.5
_MOST_HELD = 200  # open parts


class Log:
    """The log at ``path`` and its rotated parts, read one file at a time; newer parts are held open.

    A file is read to its end before the next one. Nothing is read twice. Nothing is left out that is on
    disk when the parts are listed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading: Part | None = None
        self._newer: deque[Part] = deque()  # in the order in which they were written
        self._read: set[object] = set()  # fingerprints of rotated parts that are finished
        self._partial = b""

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for part in (self._reading, *self._newer):
            if part is not None:
                part.close()

    def last(self, count: int, fits: Fits) -> list[bytes]:
        """The last ``count`` lines that fit, oldest first. ``follow`` continues right after them."""
        count = min(count, sys.maxsize)  # a deque's largest length
        parts = snapshot(self._path)
        self._read = {part.fingerprint for part in parts if part.rotated}
        found: list[bytes] = []
        for part in reversed(parts):
            if self._reading is None:
                self._reading = part
                found = list(deque(filter(fits, self._lines()), count))
                continue
            if len(found) < count:
                lines, rest = _split(part.read())
                whole = [*lines, rest] if rest else lines  # a rotated part gets no more bytes
                found[:0] = deque(filter(fits, whole), count - len(found))
            part.close()
        return found

    def start_at(self, identity: tuple[int, int], offset: int) -> None:
        """Begin at a byte of the part with this device and inode; if it is gone, at the oldest byte that is left."""
        parts = snapshot(self._path)
        self._read = {part.fingerprint for part in parts if part.rotated}
        places = [number for number, part in enumerate(parts) if part.has(identity, offset)]
        at = places[-1] if places else 0
        for part in parts[:at]:
            part.close()
        if places:
            parts[at].offset = offset
        self._newer.extend(parts[at:])
        if self._newer:
            self._reading = self._newer.popleft()

    def follow(self, fits: Fits, pause: Pause = time.sleep) -> Iterator[bytes]:
        """Lines as they are written, without end. ``pause`` sleeps for the seconds it is given."""
        busy_until = 0.0
        while True:
            for line in self.new(fits):
                busy_until = time.monotonic() + _BUSY_FOR_S
                yield line
            pause(_BUSY_S if time.monotonic() < busy_until else _IDLE_S)

    def new(self, fits: Fits) -> Iterator[bytes]:
        """The lines that have been written since the last call."""
        while True:
            # Check before reading: everything written before the log rotated is then still read.
            current = self._is_current()
            yield from filter(fits, self._lines())
            # Look even while newer parts are open: later ones could be rotated out while these are shown.
            if not current and len(self._newer) < _MOST_HELD:
                self._look()
            if not self._newer:
                return
            yield from filter(fits, self._finish_file())

    def _lines(self) -> Iterator[bytes]:
        """Complete lines written since the last read; an incomplete one is kept for the next."""
        data = self._reading.read() if self._reading is not None else b""
        lines, self._partial = _split(self._partial + data)
        yield from lines

    def _is_current(self) -> bool:
        """Whether the log's name refers to the file that is being read, and the file was not truncated."""
        part = self._reading
        if part is None or self._newer:
            return False
        try:
            status = self._path.stat()
        except OSError:
            return False
        return part.identity == (status.st_dev, status.st_ino) and part.is_whole()

    def _look(self) -> None:
        """Open the parts that are newer than the newest open one."""
        newest = self._newer[-1] if self._newer else self._reading
        parts = snapshot(self._path)
        known = self._read
        self._read = {part.fingerprint for part in parts if part.rotated}
        at = _place(newest, parts)
        for number, part in enumerate(parts):
            if number > at if at is not None else part.fingerprint not in known:
                self._newer.append(part)
            elif (
                newest is not None
                and number == at
                and newest is self._reading
                and part.identity != newest.identity
            ):
                # The copy that was made before a truncation: its rest was not read yet.
                part.offset = newest.offset
                newest.close()
                self._reading = part
            else:
                part.close()

    def _finish_file(self) -> Iterator[bytes]:
        """Read the rest of the current file, then open the next one."""
        yield from self._lines()
        if self._partial:  # its other half will not come
            rest, self._partial = self._partial, b""
            yield rest
        if self._reading is not None:
            self._reading.close()
        self._reading = self._newer.popleft()


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """Complete lines, and the rest after the last line break."""
    *lines, rest = data.split(b"\n")
    return [line + b"\n" for line in lines], rest


def _place(ours: Part | None, parts: list[Part]) -> int | None:
    """The index of our file, or of a copy of it, among the parts; None if it is gone."""
    if ours is None:
        return None
    for number, part in enumerate(parts):
        if part.identity == ours.identity and part.holds(ours):
            return number
    if ours.is_whole() or not ours.offset:
        return None
    for number, part in enumerate(parts):
        if part.rotated and part.holds(ours):
            return number
    return None
