"""Reads a file of requests to replay: a trace, or the gateway's own record."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from sage_inference.replay import record, trace
from sage_inference.replay.jobs import WorkloadError
from sage_inference.replay.recording import ReplayWorkload


def read_workload(path: Path, speed: float = 1.0, closed: bool | None = None) -> ReplayWorkload:
    """The file's workload, arriving ``speed`` times as fast. gzip is unpacked.

    ``closed`` is whether the callers of a record wait for answers; None lets their connections decide.

    Raises ``WorkloadError`` if the file is neither trace nor record, ``OSError`` if it cannot be read.
    """
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (UnicodeDecodeError, EOFError, OSError, zlib.error):
        raise WorkloadError(f"{path}: neither text nor gzip") from None
    name = str(path)
    workload = record.parse(text, name, closed) if text.startswith("{") else trace.parse(text, name)
    if not workload.jobs:
        raise WorkloadError(f"{path}: no request that can be replayed")
    return workload.at_speed(speed)
