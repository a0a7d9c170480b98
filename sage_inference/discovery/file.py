"""The source ``file``: a list of ``instances`` that somebody else writes."""

from __future__ import annotations

import os
import stat
import time

from sage_inference.config.errors import ConfigError
from sage_inference.config.load import instances_in, text_of
from sage_inference.config.paths import expanded
from sage_inference.config.settings import SourceSettings
from sage_inference.discovery.entries import with_keys_of
from sage_inference.discovery.source import Listing, Offered, SourceError
from sage_inference.discovery.threads import BlockingCall
from sage_inference.discovery.vetting import MOST_ENGINES

LARGEST = 1 << 20
SETTLE_S = 0.2

_Stamp = tuple[int, ...]


class FileSource:
    """Reads the file when it changed.

    A file that is written in place may be half a list, which is mostly valid YAML. So the content counts only if the
    opened file stays as it is for ``SETTLE_S``. A file that is renamed into place passes at once, however often that
    happens: the opened one does not change any more.
    """

    kind = "file"

    def __init__(self, settings: SourceSettings) -> None:
        assert settings.file is not None
        self.address = settings.file
        self._settings = settings
        self._blocking = BlockingCall(f"a look at {settings.file}")
        self._read: _Stamp | None = None
        self._listing = Listing(())

    async def look(self) -> Listing:
        """The list. Raises ``SourceError`` if there is no complete one."""
        return await self._blocking.of(self._look)

    async def aclose(self) -> None: ...

    def _look(self) -> Listing:
        try:
            # Without O_NONBLOCK, a named pipe without a writer would hold the thread.
            descriptor = os.open(expanded(self.address), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"cannot be read: {error.strerror}") from None
        try:
            return self._listing_of(descriptor)
        except OSError as error:
            raise SourceError(f"cannot be read: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def _listing_of(self, descriptor: int) -> Listing:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SourceError("is no regular file")
        if found.st_size > LARGEST:
            raise SourceError("is larger than 1 MiB, which no list of engines is")
        stamp = _stamp(found)
        if stamp == self._read:
            return self._listing
        time.sleep(SETTLE_S)
        data = os.read(descriptor, LARGEST + 1)
        if _stamp(os.fstat(descriptor)) != stamp or len(data) != found.st_size:
            raise SourceError("is being written")
        self._listing = self._parsed(data)
        self._read = stamp
        return self._listing

    def _parsed(self, data: bytes) -> Listing:
        try:
            entries, mistakes = instances_in(text_of(data, self.address), self.address, most=MOST_ENGINES)
        except ConfigError as error:
            raise SourceError(str(error)) from None
        offered = [Offered(with_keys_of(self._settings, entry)) for entry in entries]
        return Listing(tuple(offered), tuple(map(str, mistakes)))


def _stamp(found: os.stat_result) -> _Stamp:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
