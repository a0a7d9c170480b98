"""GPUs are read from NVML, and every lack of it means that there are none."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

import pytest

from sage_inference.engines.managed.gpus import gpus

GIB = 1 << 30


class NVMLError(Exception):
    pass


class Nvml(types.ModuleType):
    """The part of ``pynvml`` that is used, for two GPUs. ``lacks`` are the calls that this driver does not have."""

    NVMLError = NVMLError
    nvmlMemory_v2 = 2

    def __init__(self, lacks: tuple[str, ...] = ()) -> None:
        super().__init__("pynvml")
        self.lacks = lacks
        self.is_open = False

    def _call(self, name: str) -> None:
        if name in self.lacks:
            raise NVMLError(name)

    def nvmlInit(self) -> None:
        self._call("init")
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._call(f"gpu {index}")
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:
        return b"GPU-%d" % handle

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int = 1) -> Any:
        if version == 2:
            self._call("memory 2")
            return types.SimpleNamespace(total=141 * GIB, reserved=1 * GIB, free=100 * GIB)
        return types.SimpleNamespace(total=141 * GIB, free=100 * GIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        self._call("capability")
        return (9, 0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        self._call("processes")
        known = types.SimpleNamespace(pid=os.getpid(), usedGpuMemory=40 * GIB)
        return [known, types.SimpleNamespace(pid=2**22 + 1, usedGpuMemory=None)]


def test_gpus_have_memory_capability_and_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    first, second = gpus()
    assert (first.index, first.uuid, first.name, first.capability) == (0, "GPU-0", "NVIDIA H200", (9, 0))
    assert (first.total, first.free) == (140 * GIB, 100 * GIB)
    assert second.index == 1
    ours, foreign = first.processes
    assert (ours.pid, ours.used) == (os.getpid(), 40 * GIB)
    assert ours.name
    assert (foreign.name, foreign.used) == ("a process of another container", None)
    assert not nvml.is_open


@pytest.mark.parametrize(
    ("lacks", "count"),
    [
        (("init",), 0),
        (("gpu 0",), 1),
        (("memory 2",), 2),
        (("capability",), 2),
        (("processes",), 2),
    ],
)
def test_what_a_driver_lacks_is_left_out(
    monkeypatch: pytest.MonkeyPatch, lacks: tuple[str, ...], count: int
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(lacks))
    assert len(gpus()) == count


def test_without_the_package_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus() == []
