"""Running one of our load generators in a process on the load's core."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

from tests.bench.errors import BenchError
from tests.bench.process import LOAD_CORE, ROOT


def run_load(
    mode: str, on_mark: Callable[[], None] | None = None, /, **arguments: object
) -> dict[str, float | None]:
    """Its result; ``on_mark`` is called at each moment that it marks."""
    command = [sys.executable, "-m", "tests.bench.load", mode, json.dumps(arguments)]
    with subprocess.Popen(
        ["taskset", "-c", str(LOAD_CORE), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line == "MARK\n":
                    if on_mark:
                        on_mark()
                else:
                    result: dict[str, float | None] = json.loads(line)
                    return result
        finally:
            process.terminate()
    raise BenchError(f"the load generator {mode} ended with status {process.returncode} and without a result")
