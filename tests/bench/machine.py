"""What the kernel says of processes and cores: CPU time, memory, and who else was there."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from tests.bench.process import GATEWAY_CORE, LOAD_CORE


def tree(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time so far of these processes and their children, from the scheduler's nanosecond counters."""
    total = 0
    for pid in pids:
        for process in tree(pid):
            for task in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
                total += int(task.read_text().split()[0])
    return total / 1e9


def resident_kib(pids: Iterable[int]) -> float:
    """Resident memory of these processes and their children; pages they share count once each."""
    return sum(process.memory_info().rss for pid in pids for process in tree(pid)) / 1024


class OthersWatch:
    """How many cores others keep busy, beside this process and all that it started and that still runs."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = self._now()

    def cores(self) -> float:
        return max(0.0, self._now() - self._before) / (time.monotonic() - self._began)

    def _now(self) -> float:
        busy = sum(c.user + c.nice + c.system + c.irq + c.softirq for c in psutil.cpu_times(percpu=True))
        return busy - cpu_seconds([os.getpid()])


class CoreWatch:
    """How much of both cores others took while something was measured.

    A rate or a latency means little when these are not near 0.
    """

    def __init__(self, gateway: Iterable[int], engines: Iterable[int]) -> None:
        self._gateway = tuple(gateway)
        self._engines = tuple(engines)
        self._began = time.monotonic()
        self._before = self._now()

    def others(self) -> dict[str, float | None]:
        took = time.monotonic() - self._began
        (busy0, busy1, own0, own1), before = self._now(), self._before
        # Without a gateway (direct access), core 0 is all others'.
        return {
            "others_gateway_core_pct": 100 * max(0.0, busy0 - before[0] - (own0 - before[2])) / took,
            "others_load_core_pct": 100 * max(0.0, busy1 - before[1] - (own1 - before[3])) / took,
        }

    def _now(self) -> tuple[float, float, float, float]:
        busy = [c.user + c.nice + c.system + c.irq + c.softirq for c in psutil.cpu_times(percpu=True)]
        waited_for = resource.getrusage(resource.RUSAGE_CHILDREN)  # the load generators, which have ended
        ourselves = resource.getrusage(resource.RUSAGE_SELF)
        loads = sum(usage.ru_utime + usage.ru_stime for usage in (waited_for, ourselves))
        return (
            busy[GATEWAY_CORE],
            busy[LOAD_CORE],
            cpu_seconds(self._gateway),
            cpu_seconds(self._engines) + loads,
        )
