"""The log of a simulated vLLM's start, phase by phase.

The lines are those of vLLM 0.32.0 on a CPU, as recorded, with the lines of a GPU in between as vLLM 0.25.1 printed them.
Progress of the shards is one line a step, and progress of the graphs one line whose steps are separated by ``\\r``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sage_inference.simulator.starting.log import VLLMLog, write

VERSION = "0.32.0"
_SHARDS = 2
_GRAPHS = 51
_GRAPH_STEPS = (3, 9, 18, 27, 36, 45, 51)
_BEGUN = "[00:00<?, ?it/s]"
_BANNER = """
       █     █     █▄   ▄█
 ▄▄ ▄█ █     █     █ ▀▄▀ █  version {version}
  █▄█▀ █     █     █     █  model   {model}
   ▀▀  ▀▀▀▀▀ ▀▀▀▀▀ ▀     ▀
"""
_ROUTES = {
    "/health": "GET",
    "/metrics": "GET",
    "/tokenize": "POST",
    "/detokenize": "POST",
    "/v1/models": "GET",
}


@dataclass(frozen=True, slots=True)
class Model:
    """The facts about a start that its log shows."""

    name: str
    max_model_len: int
    pooling: bool
    tensor_parallel: int
    eager: bool
    cached: bool  # whether its files are on this machine, so that nothing is downloaded


def show_version(log: VLLMLog, model: str, arguments: dict[str, Any]) -> None:
    log.info("api_utils.py:347", _BANNER.format(version=VERSION, model=model).rstrip("\n") + "\n")
    log.info("api_utils.py:286", f"non-default args: {arguments!r}")


def show_config(log: VLLMLog, model: Model) -> None:
    architecture = "BertModel" if model.pooling else "LlamaForCausalLM"
    log.info("model.py:733", f"Resolved architecture: {architecture}")
    log.info("model.py:2152", f"Using max model len {model.max_model_len}")


class CorePhases:
    """The phases of EngineCore. Each has a share of the start's time, which ``spend`` lets pass."""

    def __init__(self, model: Model, spend: Callable[[float], None]) -> None:
        self._model = model
        self._spend = spend
        self._log = VLLMLog("EngineCore")

    def boot(self) -> None:
        model = self._model
        config = f"model='{model.name}', dtype=torch.bfloat16, max_seq_len={model.max_model_len}"
        self._log.info("core.py:133", f"Initializing a V1 LLM engine (v{VERSION}) with config: {config}")
        size = model.tensor_parallel
        self._log.info(
            "parallel_state.py:1906",
            f"world_size={size} rank=0 local_rank=0 distributed_init_method=tcp://127.0.0.1:49149 backend=nccl",
        )
        for rank in range(size):
            places = (
                f"DP rank 0, PP rank 0, PCP rank 0, TP rank {rank}, ETP rank 0, EP rank N/A, EPLB rank N/A"
            )
            self._log.info(
                "parallel_state.py:2350", f"rank {rank} in world size {size} is assigned as {places}"
            )
        self._spend(0.1)

    def load(self) -> None:
        log = self._log
        log.info("gpu_model_runner.py:5210", f"Starting to load model {self._model.name}...")
        if not self._model.cached:
            self._spend(0.1)
            log.info(
                "weight_utils.py:547", f"Time spent downloading weights for {self._model.name}: 0.1 seconds"
            )
        for done in range(_SHARDS + 1):
            share = f"{100 * done // _SHARDS:3d}% Completed | {done}/{_SHARDS}"
            pace = "[00:01<00:00,  1.10s/it]" if done else _BEGUN
            write(f"\rLoading safetensors checkpoint shards: {share} {pace}\n")
            if done < _SHARDS:
                self._spend(0.15)
        write("\n")
        log.info("default_loader.py:501", "Loading weights took 1.10 seconds")
        log.info("gpu_model_runner.py:5306", "Model loading took 14.32 GiB memory and 1.633665 seconds")

    def compile(self) -> None:
        if not self._model.eager and not self._model.pooling:  # with a pooling model, capturing compiles
            self._compile()

    def _compile(self) -> None:
        log, cache = self._log, "/root/.cache/vllm/torch_compile_cache/2c1254015a/rank_0_0/backbone"
        log.info("backends.py:1089", f"Using cache directory: {cache} for vLLM's torch.compile")
        log.info("backends.py:1148", "Dynamo bytecode transform time: 3.56 s")
        self._spend(0.1)
        log.info("backends.py:393", "Compiling a graph for compile range (1, 8192) takes 4.58 s")
        self._spend(0.1)
        log.info("monitor.py:53", "torch.compile took 11.82 s in total")
        log.info("monitor.py:81", "Initial profiling/warmup run took 0.25 s")

    def cache(self, tokens: int) -> None:
        if self._model.pooling:  # an encoder keeps no KV cache
            return
        length = self._model.max_model_len
        self._log.info("gpu_worker.py:480", "Available KV cache memory: 38.0 GiB")
        self._log.info(
            "kv_cache_utils.py:2327",
            f"GPU KV cache size: {tokens:,} tokens, "
            f"Maximum concurrency for {length:,} tokens per request: {tokens / length:.2f}x",
        )

    def capture(self) -> None:
        if self._model.eager:
            return
        kind = "mixed prefill-decode, PIECEWISE" if self._model.pooling else "FULL"
        write(
            f"(EngineCore pid={os.getpid()}) \rCapturing CUDA graphs ({kind}):   0%|{'':10}| 0/{_GRAPHS} {_BEGUN}"
        )
        if self._model.pooling:
            self._compile()
        for done in _GRAPH_STEPS:
            share = f"{100 * done // _GRAPHS:3d}%|{'█' * (10 * done // _GRAPHS):<10}| {done}/{_GRAPHS}"
            write(f"\rCapturing CUDA graphs ({kind}): {share} [00:00<00:02, 19.98it/s]")
            self._spend(0.2 / len(_GRAPH_STEPS))
        write("\n")
        self._log.info("model_runner.py:722", "Graph capturing finished in 3 secs, took 0.75 GiB")

    def warm(self) -> None:
        self._spend(0.1)
        took = "took 22.15 s" + ("" if self._model.eager else " (compilation: 11.82 s)")
        self._log.info("core.py:402", f"init engine (profile, create kv cache, warmup model) {took}")


def show_ready(log: VLLMLog, address: str, *, pooling: bool) -> None:
    tasks = ["token_embed", "embed"] if pooling else ["generate"]
    log.info("entry.py:136", f"Supported tasks: {tasks!r}")
    log.info("entry.py:140", f"Starting vLLM server on {address}")
    log.info("launcher.py:186", "Available routes are:")
    for path, method in _ROUTES.items():
        log.info("launcher.py:195", f"Route: {path}, Methods: {method}")
    write(f"INFO:     Started server process [{os.getpid()}]\n")
    write("INFO:     Waiting for application startup.\nINFO:     Application startup complete.\n")


def show_core_death(log: VLLMLog) -> None:
    log.warning(
        "core_client.py:817", "[shutdown] MPClient: engine core exited unexpectedly; starting cleanup"
    )
    log.error(
        "async_llm.py:906",
        "AsyncLLM output_handler failed.\nTraceback (most recent call last):\n"
        '  File "vllm/v1/engine/async_llm.py", line 849, in output_handler\n'
        "    outputs = await engine_core.get_output_async()\n"
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. "
        "See stack trace (above) for the root cause.",
    )


def show_end() -> None:
    write("INFO:     Shutting down\nINFO:     Waiting for application shutdown.\n")
    write(f"INFO:     Application shutdown complete.\nINFO:     Finished server process [{os.getpid()}]\n")
