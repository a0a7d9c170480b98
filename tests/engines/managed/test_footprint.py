"""The memory of engines."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from sage_inference.engines.managed.footprint import await_memory, memory_mb
from sage_inference.engines.managed.gpus import Gpu


def gpu(index: int, free_mb: int) -> Gpu:
    return Gpu(index, f"GPU-{index}", "a GPU", 24_000 << 20, free_mb << 20)


def test_memory_that_is_freed_late_is_waited_for() -> None:
    seen: Iterator[int] = iter([1000, 9000, 20000, 20010])
    looked = []

    def look() -> list[Gpu]:
        looked.append(next(seen))
        return [gpu(0, looked[-1]), gpu(1, 0)]

    await_memory([0], look)
    assert looked == [1000, 9000, 20000, 20010]


def test_an_engine_without_gpus_is_not_waited_for() -> None:
    began = time.monotonic()
    await_memory([])
    assert time.monotonic() - began < 0.2


def test_the_memory_of_a_process_is_known_and_that_of_none_is_not() -> None:
    assert (memory_mb(os.getpid()) or 0) > 10
    assert memory_mb(None) is None
    assert memory_mb(2**22 + 1) is None
