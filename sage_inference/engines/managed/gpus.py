"""The NVIDIA GPUs of this machine, as NVML reports them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory of a GPU. ``used`` is in bytes, None where the driver does not report it."""

    pid: int
    name: str
    user: str
    used: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. ``index`` counts in the order of the PCI bus, ``total`` and ``free`` are in bytes."""

    index: int
    uuid: str
    name: str
    total: int
    free: int
    capability: tuple[int, int] | None = None
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuUse:
    """One GPU's memory in bytes, and the part of the last second in which it worked; None if not reported."""

    index: int
    name: str
    used: int
    total: int
    percent: int | None


_SHOWN_HOLDERS = 3


def holders_of(gpu: Gpu) -> str:
    """The processes that hold most of its memory, as a part of a sentence. Empty if none is known."""
    largest = sorted(gpu.processes, key=lambda each: -(each.used or 0))[:_SHOWN_HOLDERS]
    return ", ".join(
        f"pid {each.pid} ({each.name}, user {each.user}) holds {gib(each.used) if each.used else 'memory'}"
        for each in largest
    )


def gib(size: float) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def gpus() -> list[Gpu]:
    """The GPUs in the order of the PCI bus. Empty without a driver, and without the package ``nvidia-ml-py``."""
    with _nvml() as nvml:
        if nvml is None:
            return []
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                found.append(_gpu(nvml, index))
            except nvml.NVMLError:  # a GPU that fell off the bus
                continue
        return found


def gpu_use() -> list[GpuUse]:
    """Memory and use of each GPU now, in the order of ``gpus``. Much cheaper: it names no processes."""
    with _nvml() as nvml:
        if nvml is None:
            return []
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                total, free = _memory(nvml, handle)
                found.append(
                    GpuUse(
                        index,
                        _text(nvml.nvmlDeviceGetName(handle)),
                        total - free,
                        total,
                        _percent(nvml, handle),
                    )
                )
            except nvml.NVMLError:  # a GPU that fell off the bus
                continue
        return found


def _percent(nvml: Any, handle: Any) -> int | None:
    try:
        return int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except nvml.NVMLError:  # not known of a part of a GPU (MIG)
        return None


def driver_version() -> str | None:
    """The version of the driver. None where ``gpus`` finds none."""
    with _nvml() as nvml:
        return None if nvml is None else _text(nvml.nvmlSystemGetDriverVersion())


@contextmanager
def _nvml() -> Iterator[Any]:
    """The package, initialized; None where there is none, or no driver."""
    try:
        import pynvml  # nvidia-ml-py
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    total, free = _memory(nvml, handle)
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        total=total,
        free=free,
        capability=_capability(nvml, handle),
        processes=tuple(_processes(nvml, handle)),
    )


def _memory(nvml: Any, handle: Any) -> tuple[int, int]:
    """Total and free bytes. The first version of the call counts the driver's own reserve as used, the second does not."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        return int(memory.total - memory.reserved), int(memory.free)
    except (nvml.NVMLError, AttributeError, TypeError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.total), int(memory.free)


def _capability(nvml: Any, handle: Any) -> tuple[int, int] | None:
    try:
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    except nvml.NVMLError:
        return None
    return int(major), int(minor)


def _processes(nvml: Any, handle: Any) -> Iterator[GpuProcess]:
    try:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return
    import psutil  # late: most machines have no process on a GPU to be named

    for one in running:
        name, user = "a process of another container", "unknown"
        try:
            process = psutil.Process(one.pid)
            name, user = process.name(), process.username()
        except psutil.Error:
            pass
        used = one.usedGpuMemory
        yield GpuProcess(one.pid, name, user, None if used is None else int(used))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
