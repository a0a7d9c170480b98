"""A command that follows, as a process whose output a test reads."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.gateway import clean_environment


@contextlib.contextmanager
def following(home: Path, command: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """``sage inference COMMAND --follow``. It is killed at the end."""
    words = [sys.executable, "-m", "sage_inference", "inference", command, "--follow", *args]
    with subprocess.Popen(
        words, env=clean_environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()
