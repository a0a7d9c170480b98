"""One GPU of compute capability 9.0 for vLLM's check of arguments, where there is none."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

_REPLACED = "vllm.third_party.pynvml"
_MEMORY = 141 * 10**9
_ANSWERS: dict[str, Any] = {
    "nvmlDeviceGetCount": 1,
    "nvmlDeviceGetIndex": 0,
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlDeviceGetName": "NVIDIA H200",
    "nvmlDeviceGetUUID": "GPU-0",
    "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(total=_MEMORY, free=_MEMORY, used=0),
    "nvmlDeviceGetNumaNodeId": 0,
    "nvmlDeviceGetP2PStatus": 0,
}


class NVMLError(Exception):
    """The name that vLLM looks for."""


class FakeNvml(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Found in the place of vLLM's own module, so that its parents are imported as usual."""

    def install(self) -> None:
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name == _REPLACED else None

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__.update(NVMLError=NVMLError, __getattr__=_unknown)


def _unknown(name: str) -> Any:
    if name.startswith("nvml"):
        return lambda *_: _ANSWERS.get(name)
    if name.startswith("NVML"):
        return 0
    raise AttributeError(name)
