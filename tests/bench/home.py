"""Where peers are installed and where running processes keep their files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from tests.bench.errors import BenchError

_ALSO = "/usr/sbin:/usr/local/sbin"  # where distributions put servers, often not on a user's PATH
PACKAGES = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk", "taskset": "util-linux"}


def bench_home() -> Path:
    """``SAGE_BENCH_HOME``, else ``sage-inference-bench`` in the user's cache."""
    told = os.environ.get("SAGE_BENCH_HOME")
    return Path(told).resolve() if told else user_cache_path("sage-inference-bench")


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A folder for one process's files; it is removed afterwards."""
    parent = bench_home() / "run"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=parent) as folder:
        # Workers of nginx give up root's rights, and must still get in.
        Path(folder).chmod(0o755)
        yield Path(folder)


def find_program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_ALSO}")


def need_program(name: str) -> str:
    """The program's path. Raises ``BenchError`` naming the distribution's package."""
    found = find_program(name)
    if found is None:
        raise BenchError(f"{name} is not installed; on Debian or Ubuntu: apt-get install {PACKAGES[name]}")
    return found
