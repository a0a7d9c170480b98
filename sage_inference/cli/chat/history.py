"""The lines typed before, in a file of the state directory that only its owner can read."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_inference.config.paths import Paths

NAME = "chat_history"
_KEPT = 1000
_LONGEST = 10_000  # characters of a text that is kept
# The file has an entry a line.
_ESCAPES = (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"))


class History:
    """Appends each text at once, so that two conversations at a time keep all. Failures to read or write are silent."""

    def __init__(self, readline: Any, paths: Paths | None) -> None:
        self._readline = readline
        self._file = _file(paths)
        entries = self._read()
        if readline is not None:
            for entry in entries:
                readline.add_history(entry)

    def add(self, text: str) -> None:
        if self._readline is not None:
            self._readline.add_history(text)
        if self._file is None or len(text) > _LONGEST:
            return
        with suppress(OSError):
            descriptor = _opened(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            with os.fdopen(descriptor, "ab") as file:
                file.write(_escaped(text).encode("utf-8", "replace") + b"\n")

    def _read(self) -> list[str]:
        """The last entries. A file of more than twice as many is cut to them."""
        if self._file is None:
            return []
        try:
            with os.fdopen(_opened(self._file, os.O_RDONLY), "rb") as file:
                lines = file.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return []
        lines = [line for line in lines if line]
        if len(lines) > 2 * _KEPT:
            self._replace(lines[-_KEPT:])
        return [_unescaped(line) for line in lines[-_KEPT:]]

    def _replace(self, lines: list[str]) -> None:
        assert self._file is not None
        copy = self._file.with_name(f"{NAME}.{os.getpid()}")
        with suppress(OSError):
            with os.fdopen(_opened(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
            copy.replace(self._file)


def _file(paths: Paths | None) -> Path | None:
    from sage_inference.config.errors import ConfigError
    from sage_inference.config.paths import Paths

    try:
        folder = (paths or Paths.resolve()).state_dir
        before = os.umask(0o077)  # mkdir does not apply its mode to parents
        try:
            folder.mkdir(parents=True, exist_ok=True)
        finally:
            os.umask(before)
    except (ConfigError, OSError, ValueError):
        return None
    return folder / NAME


def _opened(file: Path, flags: int) -> int:
    """A descriptor of a plain file, closed to others. Raises ``OSError``, also for a link or a pipe."""
    descriptor = os.open(file, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a plain file")
    if flags & os.O_WRONLY:
        os.fchmod(descriptor, 0o600)
    return descriptor


def _escaped(text: str) -> str:
    for character, escape in _ESCAPES:
        text = text.replace(character, escape)
    return text


def _unescaped(line: str) -> str:
    """The reverse. An escape that ``_escaped`` does not make stays as it is."""
    import re

    known = {escape: character for character, escape in _ESCAPES}
    return re.sub(r"\\[\\nr]", lambda found: known[found.group()], line)
