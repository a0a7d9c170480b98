"""Windows of traces: the requests of the first seconds of a replay, the same for everybody who plays it."""

from __future__ import annotations

from pathlib import Path

from tests.bench.errors import BenchError


def window(traces: Path, name: str, speed: float, seconds: float, into: Path) -> Path:
    """A file with the requests of the first ``seconds`` at that speed."""
    source = traces / f"{name}.csv"
    if not source.exists():
        raise BenchError(f"there is no trace {source}: make it with `python -m tests.bench gpu traces`")
    head, *lines = source.read_text().splitlines()
    last_ms = seconds * 1000 * speed
    kept = [line for line in lines if float(line.partition(",")[0]) < last_ms]
    if not kept:
        raise BenchError(f"{source} has no request in the first {seconds:g} s at {speed:g} times its speed")
    into.mkdir(exist_ok=True)
    file = into / f"{name}-x{speed:g}-{seconds:g}s.csv"
    file.write_text("\n".join([head, *kept]) + "\n")
    return file
