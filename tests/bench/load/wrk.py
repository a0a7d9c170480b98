"""Running wrk, for requests as fast as they go."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from tests.bench.errors import BenchError
from tests.bench.home import need_program
from tests.bench.process import KEY, LOAD_CORE

_SCRIPT = Path(__file__).with_name("post.lua")


def run(url: str, body: bytes, connections: int, seconds: float) -> dict[str, float]:
    """``requests`` done, ``per_s``, ``bytes_per_s`` received, ``failures`` (not 2xx, or broken)."""
    command = [need_program("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        done = subprocess.run(
            ["taskset", "-c", str(LOAD_CORE), *command, "-s", str(_SCRIPT), url, "--", file.name, KEY],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        raise BenchError(
            f"wrk ended with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return parse(done.stdout)


def parse(output: str) -> dict[str, float]:
    """wrk's report, as the script prints it."""
    found = re.search(r"^RESULT (\{.*\})$", output, re.MULTILINE)
    if found is None:
        raise BenchError(f"wrk printed no result: {output.strip()}")
    pairs = re.findall(r'"(\w+)":(\d+)', found[1])
    raw = {name: int(value) for name, value in pairs}
    seconds = raw["duration_us"] / 1e6
    return {
        "requests": raw["requests"],
        "per_s": raw["requests"] / seconds,
        "bytes_per_s": raw["bytes"] / seconds,
        "failures": raw["status"] + raw["connect"] + raw["read"] + raw["write"] + raw["timeout"],
    }
