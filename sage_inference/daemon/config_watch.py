"""Notices that the configuration file, or a file that it names, has changed since it was read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from sage_inference.config.paths import expanded
from sage_inference.config.settings import Settings

log = logging.getLogger("sage_inference.daemon")

Stamp = tuple[object, ...]


class ConfigWatch:
    """The state of the files when they were last read, and at the last look.

    A change counts only when two looks found the same, because some editors write a file in place and the first half
    of a YAML file is mostly valid. For the same reason a missing or an empty file changes nothing: it would set every
    default, so all engines would go.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._named: tuple[str, ...] = ()
        self._read = self._seen = self._stamp()
        self._complaint = ""

    def read(self, load: Callable[[], Settings]) -> Settings:
        """The settings that ``load`` returns. It need not be called again until the file, or one that it names, changes."""
        self._read = self._seen = self._stamp()  # before, so that a change meanwhile is noticed
        settings = load()
        named = tuple(files_in(settings))
        if named != self._named:
            self._named = named
            self._read = self._seen = (self._read[0], *self._stamp()[1:])
        return settings

    def look(self) -> bool:
        """Whether the file should be read again. Blocks as long as its file system does."""
        stamp = self._stamp()
        if stamp == self._read or stamp != self._seen:
            self._seen = stamp
            if stamp == self._read:
                self._complaint = ""
            return False
        main = stamp[0]
        if main is None:
            self._complain("is gone")
        elif isinstance(main, tuple) and main[-1] == 0:
            self._complain("is empty")
        else:
            self._complaint = ""
            return True
        return False

    def _complain(self, how: str) -> None:
        if how != self._complaint:
            log.warning(
                "configuration file %s %s: the old settings stay; sage inference reload applies the defaults",
                self._path,
                how,
            )
        self._complaint = how

    def _stamp(self) -> Stamp:
        """A value that changes when a file is written or replaced, also behind a symbolic link. The size comes last."""
        return tuple(_state(path) for path in (str(self._path), *self._named))


def files_in(settings: Settings) -> Iterator[str]:
    """The files whose content a reload applies: those of keys and of trusted certificates."""
    from sage_inference.config.check import kept_secrets

    for _, secret in kept_secrets(settings):
        kind, _, where = secret.source.partition(":")
        if kind == "file":
            yield where
    for instance in settings.instances:
        if instance.ca_file is not None:
            yield instance.ca_file


def _state(path: str) -> Stamp | None:
    try:
        found = expanded(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
