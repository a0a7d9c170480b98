"""Gives memory back to the system after a crowd of callers has left, which is else kept for the next one."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

_CROWD = 256  # connections: fewer don't take so much
_MUCH = 16 << 20  # bytes of bodies


def _trimmer() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``; other C libraries have none, or need none."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


class Trimming:
    """``tick`` is called about once a second, with the number of connections there are.

    When a crowd has left, ``shrink`` lets go of what only it needed; a tick later, when that is freed, the C
    library is asked to give back what it holds. The same is asked for when large bodies have gone.
    """

    def __init__(self, shrink: Callable[[], None], trim: Callable[[int], int] | None = None) -> None:
        self._shrink = shrink
        self._trim = trim or _trimmer()
        self._most = 0
        self._most_bytes = 0
        self._shrunk = False

    def tick(self, connections: int, bytes_held: int = 0, most_bytes: int = 0) -> None:
        """``bytes_held`` of bodies are there now, ``most_bytes`` there were since the last tick."""
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
