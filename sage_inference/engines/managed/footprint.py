"""The memory that an engine's processes hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from sage_inference.engines.managed.gpus import Gpu, gpus

_LOOK_S = 0.25
_LONGEST_S = 10.0
_SAME = 64 << 20  # a smaller difference between two looks is another process's work


def memory_mb(pid: int | None) -> int | None:
    """Megabytes: on GPUs where the driver reports them, otherwise of the machine's memory. None if it is not known."""
    if pid is None:
        return None
    import psutil  # late: a gateway without engines of its own does without it

    try:
        leader = psutil.Process(pid)
        tree = {process.pid: process for process in (leader, *leader.children(recursive=True))}
    except psutil.Error:
        return None
    held = [each.used for gpu in gpus() for each in gpu.processes if each.pid in tree and each.used]
    if held:
        return sum(held) >> 20
    total = 0
    for process in tree.values():
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return total >> 20


def await_memory(indices: Collection[int], look: Callable[[], Sequence[Gpu]] = gpus) -> None:
    """Wait until the free memory of these GPUs rises no more, at most ten seconds: drivers free it after the end of a process."""
    if not indices:
        return
    deadline = time.monotonic() + _LONGEST_S
    before: dict[int, int] = {}
    while time.monotonic() < deadline:
        free = {gpu.index: gpu.free for gpu in look() if gpu.index in indices}
        if before and all(free[index] - before.get(index, 0) < _SAME for index in free):
            return
        before = free
        time.sleep(_LOOK_S)
