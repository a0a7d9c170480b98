"""The CPU time that a piece of work takes, undisturbed by what else this process has done."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Spent:
    """``seconds`` of this thread's CPU, known when the block is left."""

    seconds = 0.0


@contextmanager
def cpu_time() -> Iterator[Spent]:
    """Measures the block. The collector is off, because a pass may fall on any piece of work."""
    spent = Spent()
    gc.collect()
    gc.disable()
    began = time.thread_time()
    try:
        yield spent
    finally:
        spent.seconds = time.thread_time() - began
        gc.enable()
