"""The random key of an engine on a port, kept in its private directory: a later gateway finds it there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_FILE = "api_key"
_SHORTEST = 32


def api_key_of(directory: Path) -> str:
    """The key that is kept, or a new one. Raises ``OSError``."""
    found = kept(directory)
    if found is not None and len(found) >= _SHORTEST:
        return found
    made = secrets.token_urlsafe(_SHORTEST)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    forget(directory)
    descriptor = os.open(directory / _FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(made)
    return made


def kept(directory: Path) -> str | None:
    """The key of the engine that was started last; None if it has none."""
    try:
        return (directory / _FILE).read_text("utf-8").strip() or None
    except OSError:
        return None


def forget(directory: Path) -> None:
    (directory / _FILE).unlink(missing_ok=True)
