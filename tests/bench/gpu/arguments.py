"""Each engine's arguments through vLLM's own parser and configuration, on a machine without a GPU.

vLLM must be importable (``PYTHONPATH`` with what ``pack`` made, and the torch that it needs). Its compiled parts want
a ``libcuda.so.1``; where there is none, one is made whose functions all fail.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.errors import BenchError
from tests.bench.gpu.engines import vllm_arguments
from tests.bench.gpu.specs import SPECS

_LIBRARY = "libcuda.so.1"
_NO_DEVICE = 100
_FUNCTIONS = (
    "CtxGetCurrent CtxSetCurrent DeviceGetAttribute DevicePrimaryCtxRetain GetErrorString GetProcAddress_v2 Init "
    "MemAddressFree MemAddressReserve MemCreate MemGetAllocationGranularity MemMap MemRelease MemSetAccess MemUnmap "
    "PointerGetAttribute TensorMapEncodeTiled"
).split()
_LIMIT_S = 900


def check(names: Sequence[str], models: Path, say: Callable[[str], None]) -> int:
    """How many combinations of engine and variant vLLM refuses. Raises ``BenchError`` if it cannot be asked."""
    wanted = []
    for name in names or [name for name, spec in SPECS.items() if (models / spec.folder).is_dir()]:
        if name not in SPECS:
            raise BenchError(f'there is no engine "{name}"; there are {", ".join(SPECS)}')
        spec = SPECS[name]
        if not (models / spec.folder / "config.json").exists():
            raise BenchError(f"{models / spec.folder} has no config.json: make it with `gpu models`")
        for variant in range(len(spec.variants)):
            wanted.append((f"{name}/{variant}", vllm_arguments(spec, 8000, models, variant)))
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "CUDA_VISIBLE_DEVICES": "0",
        }
        command = [sys.executable, "-m", "tests.bench.gpu.vllm_parser"]
        if not _has_library():
            command.append("--fake-gpu")
            environment["LD_LIBRARY_PATH"] = (
                f"{_stand_in(Path(folder))}:{os.environ.get('LD_LIBRARY_PATH', '')}"
            )
        shown = subprocess.run(
            command,
            input=json.dumps(wanted),
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=_LIMIT_S,
            check=False,
        )
    found = [json.loads(line) for line in shown.stdout.splitlines() if line.startswith('{"name"')]
    for one in found:
        say(f"{one['name']}: {one.get('error') or one['config']}")
    if len(found) < len(wanted):
        raise BenchError(
            f"vLLM's parser ended with status {shown.returncode} after {len(found)} of {len(wanted)}"
        )
    return sum("error" in one for one in found)


def _has_library() -> bool:
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True


def _stand_in(folder: Path) -> Path:
    source = folder / "stub.c"
    source.write_text("".join(f"int cu{name}() {{ return {_NO_DEVICE}; }}\n" for name in _FUNCTIONS))
    try:
        subprocess.run(
            ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{_LIBRARY}", "-o", str(folder / _LIBRARY), str(source)],
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchError(f"gcc could not make a stand-in for {_LIBRARY}: {error}") from None
    return folder
