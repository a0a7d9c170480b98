"""Packs for a GPU machine without a network: the wheels of vLLM in pieces, and the project as one archive."""

from __future__ import annotations

import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

from tests.bench.errors import BenchError
from tests.bench.process import ROOT

REQUIREMENTS = Path(__file__).parent / "requirements.txt"
# The project's part of an archive: no git, no caches, no other tests.
PROJECT = ("sage_inference", "tests/__init__.py", "tests/bench", "tests/support", "tests/data")
_PYTHON = "3.12"
_PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 26, 24, 17, 12, 5)] + [
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
    "linux_x86_64",
]
# Compiled parts for other GPUs, for mixtures of experts, for vision; headers; data of tokenizers; tests.
_LEFT_OUT = (
    "vllm/vllm-rs",
    "vllm/_rust_tool_parser*",
    "vllm/vllm_flash_attn/_vllm_fa2_C*",
    "vllm/_moe_C_*",
    "vllm/_flashmla*",
    "vllm/_qutlass_C*",
    "vllm/third_party/deep_gemm/*",
    "vllm/third_party/fmha_sm100/*",
    "vllm/third_party/flashmla/*",
    "*/swagger-ui-*",
    "mistral_common/data/*",
    "pycountry/locales/*",
    "*.pyc",
    "*/tests/*",
    "*.hpp",
    "*.cuh",
)
_SMALL, _QUICK = 6, 1  # levels of xz


def pack(requirements: Path, wheels: Path | None, out: Path, piece_mib: float) -> list[Path]:
    """The wheels, unpacked, stripped, and cut: ``cat PIECES/* | tar xJ -C SITE`` puts them together.

    Without ``wheels``, pip loads those of ``requirements`` and none that they depend on: the list has what the
    machine's image lacks.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found = sorted((wheels or _download(requirements, Path(scratch) / "wheels")).glob("*.whl"))
        if not found:
            raise BenchError(f"there are no wheels in {wheels}")
        site = Path(scratch) / "site"
        for wheel in found:
            _unpack(wheel, site)
        for library in [path for path in site.rglob("*.so*") if path.is_file()]:
            subprocess.run(["strip", "--strip-unneeded", str(library)], check=False, capture_output=True)
        packed = Path(scratch) / "site.tar.xz"
        _compress(packed, {site: "."}, _SMALL)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return list(_split(packed, out, int(piece_mib * 2**20)))


def archive(
    out: Path,
    models: Path,
    traces: Path,
    *,
    real_model: Path | None = None,
    more: Mapping[str, Path] | None = None,
) -> int:
    """Its size. Unpacked, it is a folder to run ``python -m tests.bench gpu`` in. ``more``: by their names in it."""
    parts = {ROOT / path: path for path in PROJECT} | {models: "models", traces: "traces"}
    parts |= {real_model: "models/real"} if real_model else {}
    parts |= {path: name for name, path in (more or {}).items()}
    missing = [path for path in parts if not path.exists()]
    if missing:
        raise BenchError(f"{missing[0]} is missing")
    _compress(out, parts, _QUICK)
    return out.stat().st_size


def _compress(out: Path, parts: Mapping[Path, str], level: int) -> None:
    with lzma.open(out, "wb", preset=level) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for path, name in parts.items():
            tar.add(path, arcname=name, filter=_worth)


def _worth(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name or entry.name.endswith(".pyc") else entry


def _download(requirements: Path, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", _PYTHON, "--implementation", "cp"]
    command += ["--abi", "cp312", "--abi", "abi3", "--abi", "none"]
    for platform in _PLATFORMS:
        command += ["--platform", platform]
    subprocess.run([*command, "-d", str(into), "-r", str(requirements)], check=True)
    return into


def _unpack(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        for entry in opened.infolist():
            name = _place(entry.filename)
            if name is None or entry.is_dir():
                continue
            target = site / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(opened.read(entry))


def _place(name: str) -> str | None:
    """Where a wheel's file goes: purelib and platlib where the rest does, scripts and headers nowhere."""
    if any(fnmatch(name, pattern) for pattern in _LEFT_OUT):
        return None
    head, _, rest = name.partition("/")
    if not head.endswith(".data"):
        return name
    scheme, _, rest = rest.partition("/")
    return rest if scheme in ("purelib", "platlib") else None


def _split(packed: Path, out: Path, most: int) -> Iterator[Path]:
    with packed.open("rb") as source:
        number = 0
        while part := source.read(most):
            piece = out / f"p{number:02d}"
            piece.write_bytes(part)
            yield piece
            number += 1
