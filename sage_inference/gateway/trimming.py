"""Returns memory to the system after a crowd of callers has left. The C library would keep it for the next crowd."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

_CROWD = 256  # connections; fewer do not take enough memory to return
_MUCH = 16 << 20  # bytes of bodies, likewise


def _trimmer() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``; other C libraries have none, or need none."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


class Trimming:
    """``tick`` has to be called about once a second, with the present number of connections.

    When a crowd has left, ``shrink`` closes the connections that only the crowd needed. A tick later, when their
    memory is free, the C library is asked to return it. The same is done after large bodies.
    """

    def __init__(self, shrink: Callable[[], None], trim: Callable[[int], int] | None = None) -> None:
        self._shrink = shrink
        self._trim = trim or _trimmer()
        self._most = 0
        self._most_bytes = 0
        self._shrunk = False

    def tick(self, connections: int, bytes_held: int = 0, most_bytes: int = 0) -> None:
        """``bytes_held`` is the size of all bodies now, ``most_bytes`` its maximum since the last tick."""
        if self._shrunk and self._trim is not None:
            self._trim(0)
        self._shrunk = False
        self._most = max(self._most, connections)
        if self._most >= _CROWD and connections * 2 <= self._most:
            self._most = connections
            self._shrink()
            self._shrunk = True
        self._most_bytes = max(self._most_bytes, most_bytes)
        if self._most_bytes >= _MUCH and bytes_held * 2 <= self._most_bytes:
            self._most_bytes = bytes_held
            self._shrunk = True
