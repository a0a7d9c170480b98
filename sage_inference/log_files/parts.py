"""The files of a log that rotates, held open: a part that is removed meanwhile can still be read."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

_HEAD = 256  # first bytes, which identify a file
_PIECE = 1 << 20
_TRIES = 50


class Part:
    """An open file of the log, and the number of bytes read."""

    def __init__(self, descriptor: int, *, rotated: bool) -> None:
        self.descriptor = descriptor
        self.rotated = rotated  # when it was opened
        self.offset = 0
        self._head = b""
        status = os.fstat(descriptor)
        self.identity = (status.st_dev, status.st_ino)

    @property
    def fingerprint(self) -> tuple[tuple[int, int], bytes]:
        """Inode and first bytes: a new file soon reuses an inode's number, but begins differently."""
        return self.identity, os.pread(self.descriptor, _HEAD, 0)

    def is_whole(self) -> bool:
        """Whether the file still has all bytes that were read: False after a truncation."""
        return self.holds(self)

    def has(self, identity: tuple[int, int], offset: int) -> bool:
        """Whether this file is that one, and has so many bytes."""
        return self.identity == identity and os.fstat(self.descriptor).st_size >= offset

    def holds(self, other: Part) -> bool:
        """Whether this file has the bytes read of ``other``: the same file, or a copy made before a truncation."""
        size = os.fstat(self.descriptor).st_size
        return size >= other.offset and os.pread(self.descriptor, len(other._head), 0) == other._head

    def read(self) -> bytes:
        """The bytes written since the last read; none if the file was truncated and rewritten."""
        pieces = []
        offset = self.offset
        while piece := os.pread(self.descriptor, _PIECE, offset):
            pieces.append(piece)
            offset += len(piece)
        if not pieces or not self.is_whole():
            return b""
        self.offset = offset
        if len(self._head) < _HEAD:
            self._head = os.pread(self.descriptor, min(_HEAD, offset), 0)
        return b"".join(pieces)

    def close(self) -> None:
        os.close(self.descriptor)


def names(path: Path) -> list[Path]:
    """``path`` and its rotated parts ``path.1``, ``path.2`` …, the oldest first. A link's parts lie at its target."""
    real = Path(os.path.realpath(path))
    prefix = f"{real.name}."
    with contextlib.suppress(OSError):
        suffixes = [name.removeprefix(prefix) for name in os.listdir(real.parent) if name.startswith(prefix)]  # noqa: PTH208
        numbers = sorted(
            (int(each) for each in suffixes if each.isascii() and each.isdecimal()), reverse=True
        )
        return [*(real.with_name(f"{prefix}{number}") for number in numbers), real]
    return [real]


def snapshot(path: Path) -> list[Part]:
    """All parts as they are at one moment, the oldest first; the log itself may be missing between two renames.

    Raises ``OSError`` for a log that may not be read.
    """
    for left in range(_TRIES, -1, -1):
        found = names(path)
        opened = [(name, _opened(name, rotated=name is not found[-1])) for name in found]
        parts = [part for _, part in opened if part is not None]
        if not left or (names(path) == found and all(_is_at(part, name) for name, part in opened)):
            break
        for part in parts:
            part.close()
    return parts


def _opened(path: Path, *, rotated: bool) -> Part | None:
    try:
        # Nonblocking: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a file that can be read again", str(path))
    return Part(descriptor, rotated=rotated)


def _is_at(part: Part | None, path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return part is None
    return part is not None and part.identity == (status.st_dev, status.st_ino)
