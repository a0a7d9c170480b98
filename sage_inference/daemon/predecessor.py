"""The gateway that a restart relieves."""

from __future__ import annotations

from dataclasses import dataclass

from sage_inference.daemon.process import Process


@dataclass(frozen=True, slots=True)
class Predecessor:
    """``host`` and ``port`` are those of its listening socket."""

    process: Process
    host: str
    port: int
