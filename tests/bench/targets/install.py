"""Installing the peers that come from the package index, each into an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import venv

from tests.bench.errors import BenchError
from tests.bench.home import bench_home

# LiteLLM 1.107.0 was reported compromised; this is the version the figures are quoted for.
REQUIREMENTS = {
    "vllm-router": "vllm-router==0.1.17",
    "sglang-router": "sglang-router==0.3.2",
    "smg": "smg==1.13.0",  # the successor of sglang-router
    "litellm": "litellm[proxy]==1.80.0",
}


def venv_program(peer: str, program: str) -> str:
    return str(bench_home() / "venv" / peer / "bin" / program)


def installed(peer: str) -> bool:
    """In the version that is asked for now."""
    marker = bench_home() / "venv" / peer / ".done"
    return peer in REQUIREMENTS and marker.exists() and _release(peer) in marker.read_text().splitlines()


def _release(peer: str) -> str:
    return f"{peer}=={REQUIREMENTS[peer].partition('==')[2]}"


def install(peer: str) -> None:
    """Raises ``BenchError`` with pip's last words. A peer that is there already is kept."""
    if installed(peer):
        return
    folder = bench_home() / "venv" / peer
    venv.create(folder, with_pip=True, clear=True)
    pip = subprocess.run(
        [venv_program(peer, "pip"), "install", "-q", "--no-input", REQUIREMENTS[peer]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if pip.returncode != 0:
        words = pip.stderr.strip().splitlines()[-1:] or ["no message"]
        raise BenchError(
            f"{REQUIREMENTS[peer]}: pip ended with status {pip.returncode} ({sys.executable}): {words[0]}"
        )
    (folder / ".done").write_text(_release(peer) + "\n")
