"""The memory that an engine's processes hold."""

from __future__ import annotations

import psutil

from sage_inference.engines.managed.gpus import gpus


def memory_mb(pid: int | None) -> int | None:
    """Megabytes: on GPUs where the driver reports them, otherwise of the machine's memory. None if it is not known."""
    if pid is None:
        return None
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
