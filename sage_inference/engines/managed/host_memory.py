"""The memory of this machine that a new process can use, within a container's limit."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that are free or can be freed."""
    found = psutil.virtual_memory().available
    limit, used = _number("memory.max"), _number("memory.current")
    if limit is None or used is None:
        return found
    return max(0, min(found, limit - used + (_inactive_file() or 0)))


def total() -> int:
    found = psutil.virtual_memory().total
    return min(found, _number("memory.max") or found)


def _number(name: str) -> int | None:
    try:
        return int((_CGROUP / name).read_text())
    except (OSError, ValueError):  # no version 2, the root group, or "max"
        return None


def _inactive_file() -> int | None:
    """Cached file content, which counts as used and is given up first."""
    try:
        for line in (_CGROUP / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "inactive_file":
                return int(value)
    except (OSError, ValueError):
        pass
    return None
