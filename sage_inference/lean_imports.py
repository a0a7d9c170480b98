"""Imports that other packages make without need, and that our own programs go without."""

from __future__ import annotations

import sys


def leave_out() -> None:
    """Keep httpx from importing its command line, and with it rich and Pygments: 3 MiB of a gateway's memory.

    Call this before httpx is imported, and only in programs of this package: others may want that command line. httpx
    takes it for not installed.
    """
    # None makes the import raise ``ModuleNotFoundError``: https://docs.python.org/3/reference/import.html#the-module-cache
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
