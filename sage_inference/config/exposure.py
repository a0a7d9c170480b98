"""Whether other users of this machine can read a file with a key."""

from __future__ import annotations

import stat
from pathlib import Path

from sage_inference.config.paths import expanded


def is_open_to_all(named: str | Path) -> bool:
    """Whether every user may read the file, and enter its folders. A group is left alone: somebody chose it."""
    try:
        path = expanded(named).resolve()
        return bool(path.stat().st_mode & stat.S_IROTH) and all(
            folder.stat().st_mode & stat.S_IXOTH for folder in path.parents
        )
    except OSError:
        return False
