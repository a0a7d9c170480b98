"""The reserve: a file of a fixed size beside the store. It has the usage that finds no room in the store.

Its bytes are taken while there is room on the disk, and then only overwritten. So rows can be kept on a full disk, over
the end of the gateway.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from sage_inference.usage.columns import Labels, Row, UsageError

SLOT = 128 << 10  # bytes of each of two slots; the older one is overwritten, so a crash leaves the other
_HEAD = struct.Struct(">4sIII")  # mark, number, and the size and checksum of what follows
_MARK = b"SGU1"
_BUSY_S, _AGAIN_S = 5.0, 0.02  # another process has the reserve


class ReserveFullError(Exception):
    """The rows need more room than there is, or there is no reserve."""


class UsageReserve:
    """``number`` rises with each change. ``lost`` counts requests whose rows found no room."""

    def __init__(self, descriptor: int | None, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self._slot = 1  # that has the newest content
        self.number = 0
        self.lost = 0
        self.rows: list[Row] = []
        if descriptor is not None:
            self._read(descriptor)

    def make(self) -> None:
        """Take the bytes on the disk, unless that is done. Does nothing on a full disk."""
        if self._descriptor is not None and os.fstat(self._descriptor).st_size >= 2 * SLOT:
            return
        draft = self._path.with_name(f".{self._path.name}.new")
        try:
            with open(draft, "wb", opener=_private) as file:  # noqa: PTH123 - Path.open takes no opener
                file.write(os.urandom(2 * SLOT))  # some file systems take no room for zeros
                os.fsync(file.fileno())
            draft.rename(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()

    def put(self, rows: Sequence[Row], lost: int = 0) -> None:
        """Replace what is kept. Raises ``ReserveFullError``."""
        if self._descriptor is None or os.fstat(self._descriptor).st_size < 2 * SLOT:
            raise ReserveFullError
        content = zlib.compress(
            json.dumps([lost, [[*labels, *measures] for labels, measures in rows]]).encode(), 1
        )
        if len(content) > SLOT - _HEAD.size:
            raise ReserveFullError
        slot, number = 1 - self._slot, (self.number or _first_number()) + 1
        head = _HEAD.pack(_MARK, number, len(content), zlib.crc32(content))
        try:
            os.pwrite(self._descriptor, head + content, slot * SLOT)
            os.fsync(self._descriptor)
        except OSError as error:  # some file systems take new room for each change
            raise ReserveFullError from error
        self._slot, self.number, self.rows, self.lost = slot, number, list(rows), lost

    def _read(self, descriptor: int) -> None:
        """Read the newer slot; the older one if a crash left the newer one half-written."""
        heads = [(os.pread(descriptor, _HEAD.size, slot * SLOT), slot) for slot in (0, 1)]
        found = [(*_HEAD.unpack(head), slot) for head, slot in heads if len(head) == _HEAD.size]
        for mark, number, size, checksum, slot in sorted(found, key=lambda head: head[1]):
            if mark != _MARK or size > SLOT:
                continue
            content = os.pread(descriptor, size, slot * SLOT + _HEAD.size)
            if zlib.crc32(content) == checksum:
                self.lost, rows = json.loads(zlib.decompress(content))
                width = len(Labels._fields)
                self.rows = [(Labels(*row[:width]), tuple(row[width:])) for row in rows]
                self._slot, self.number = slot, number


def reserve_of(store: Path) -> Path:
    """The path of the reserve of a store."""
    return store.with_name("usage.reserve")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[UsageReserve]:
    """The reserve, which no other process changes meanwhile. Raises ``UsageError``."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield UsageReserve(None, path)
        return
    except OSError as error:
        raise UsageError(f"{path} cannot be used: {error.strerror}") from None
    try:
        _lock(descriptor, path)
        yield UsageReserve(descriptor, path)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES) or time.monotonic() > deadline:
                raise UsageError(f"{path} cannot be used: {error.strerror}") from None
        time.sleep(_AGAIN_S)


def _first_number() -> int:
    """A random one, because the store may have the mark of an earlier reserve."""
    return int.from_bytes(os.urandom(4), "big") >> 2


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
