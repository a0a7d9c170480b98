"""The real command, run to its end in a home of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.gateway import clean_environment


def sage(home: Path, *args: str, timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
    """``sage inference ARGS``: exit status, stdout and stderr."""
    return subprocess.run(
        [sys.executable, "-m", "sage_inference", "inference", *args],
        env=clean_environment(home, **env),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )
