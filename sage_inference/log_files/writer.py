"""Appends lines to a log that rotates by size, and that other programs may move, remove or truncate."""

from __future__ import annotations

import contextlib
import os
import stat
import time

TYPE_CHECKING = False  # ``typing`` costs the keeper of an engine half a megabyte
if TYPE_CHECKING:
    from pathlib import Path

MOST_PARTS = 100  # of a log: files with larger numbers are not ours

_ROTATE_AGAIN_S = 60.0  # after a failure

# O_NONBLOCK, because a FIFO without a reader must not stop the gateway. It has no effect on files.
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class LogWriter:
    """The file at ``path``, readable by its owner only, and its parts ``path.1`` … ``path.N``, the newest first.

    Each append checks that the path still names the open file. After a log or its directory was renamed or
    removed, the next line makes it again. If the path is a symbolic link, the parts lie beside its target.
    Not thread-safe.
    """

    def __init__(self, path: Path | str, max_bytes: int, backups: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.backups = backups
        self._descriptor = -1
        self._identity = (0, 0)
        self._rotates_from = 0.0
        self.rotation_error: OSError | None = (
            None  # of the last attempt: the handler reports it and sets None
        )

    def append(self, line: bytes) -> None:
        """Write the whole line. On failure, leave nothing of it and raise ``OSError``, which names the file."""
        try:
            found = self._current()
            if stat.S_ISREG(found.st_mode) and found.st_size and found.st_size + len(line) > self.max_bytes:
                self._rotate()
                found = self._current()
            self._write(line, found.st_size)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.path)) from error

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            # Some file systems report failed writes here. The next append reports them again.
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _current(self) -> os.stat_result:
        """The open file's status. If the path names another file or none, it is opened again first."""
        if self._descriptor >= 0:
            with contextlib.suppress(FileNotFoundError):
                try:
                    found = os.stat(self.path)
                except PermissionError:  # the open file can still be written
                    return os.fstat(self._descriptor)
                if (found.st_dev, found.st_ino) == self._identity:
                    return found
            self.close()
        try:
            self._descriptor = os.open(self.path, _FLAGS, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(os.path.realpath(self.path)), mode=0o700, exist_ok=True)
            self._descriptor = os.open(self.path, _FLAGS, 0o600)
        found = os.fstat(self._descriptor)
        self._identity = (found.st_dev, found.st_ino)
        return found

    def _write(self, line: bytes, size: int) -> None:
        written = 0
        try:
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError:
            if written:  # the next line would be appended to half a line
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, size)
            raise

    def _rotate(self) -> None:
        """Rename the log and its parts. A log that cannot be renamed grows on, because no line may be lost."""
        if time.monotonic() < self._rotates_from:
            return
        path = os.path.realpath(self.path)
        try:
            for number in range(self.backups + 1, MOST_PARTS + 1):  # left from a larger ``backups``
                _remove(f"{path}.{number}")
            for number in range(self.backups - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{path}.{number}", f"{path}.{number + 1}")
            with contextlib.suppress(FileNotFoundError):
                if self.backups:
                    os.replace(path, f"{path}.1")
                else:
                    os.unlink(path)
        except OSError as error:
            self._rotates_from = time.monotonic() + _ROTATE_AGAIN_S
            self.rotation_error = error


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
