"""``PYTHONPATH`` for a process that takes the project from a source tree."""

from __future__ import annotations

import os
from pathlib import Path


def led_by(tree: Path) -> str:
    """``tree``, then what our own has: packages may come from there, where nothing is installed."""
    return os.pathsep.join([str(tree), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
