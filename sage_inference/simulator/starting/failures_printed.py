"""The failures that a simulated engine can print: their texts, their phase, and how the engine ends.

The texts are vLLM 0.32.0's, TEI 1.9's and those of the libraries below them. A row with ``mended`` starts after all with
the options that mend it, so that a retry with a change can be tested.
"""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

_POLL_S = 1.0


class Point(Enum):
    """The place in a start at which the engine fails, in their order."""

    ARGUMENTS = "arguments"  # nothing but the usage is printed
    CONFIG = "config"  # in the API server, before it binds
    BIND = "bind"
    BOOT = "boot"  # in EngineCore, from here on
    LOAD = "load"
    CACHE = "cache"
    COMPILE = "compile"
    CAPTURE = "capture"
    READY = "ready"  # after readiness


@dataclass(frozen=True, slots=True)
class PrintedFailure:
    """``error`` is the exception's line, after a traceback. ``before`` are lines of a library before it.

    ``signal`` ends the engine without a word, and with ``hangs`` it does nothing more. ``mended`` returns whether the given options avoid the failure.
    """

    point: Point
    error: str = ""
    before: str = ""
    status: int = 1
    signal: int = 0
    hangs: bool = False
    mended: Callable[[Namespace], bool] = lambda _: False

    def end_without_a_word(self) -> None:
        """Hang, or end by the signal, if this failure does."""
        if self.signal:
            os.kill(os.getpid(), self.signal)
        while self.hangs or self.signal:  # another thread may be the one that gets the signal, a moment later
            time.sleep(_POLL_S)


_CONSERVE = "See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
_LONGEST = 29008
_HUB = "https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct"
_GATED = (
    "OSError: You are trying to access a gated repo.\n"
    f"Make sure to have access to it at {_HUB}.\n"
    f"401 Client Error. (Request ID: Root=1-6655)\n\nCannot access gated repo for url {_HUB}/resolve/main/config.json.\n"
    "Access to model meta-llama/Llama-3.1-8B-Instruct is restricted. You must have access to it and be authenticated to "
    "access it. Please log in."
)
_UNKNOWN = (
    "OSError: nobody/no-such-model is not a local folder and is not a valid model identifier listed on "
    "'https://huggingface.co/models'\nIf this is a private repository, make sure to pass a token having permission to "
    "this repo either by logging in with `hf auth login` or by passing `token=<your_token>`"
)
_UNREACHABLE = (
    "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached "
    "files.\nCheck your internet connection or see how to run the library in offline mode at "
    "'https://huggingface.co/docs/transformers/installation#offline-mode'."
)
_NOT_CACHED = (
    "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the specified "
    "revision on the local disk and outgoing traffic has been disabled. To enable repo look-ups and downloads online, "
    "set 'HF_HUB_OFFLINE=0' as environment variable."
)
_REMOTE_CODE = (
    "ValueError: The repository /models/custom contains custom code which must be executed to correctly load the model. "
    "You can inspect the repository content at https://hf.co//models/custom .\n"
    "The model requires you to execute the configuration file in that repo on your local machine. "
    "Please pass the argument `trust_remote_code=True` to allow custom code to be run."
)
_TOKENIZER = (
    "RuntimeError: Failed to load the tokenizer. If the tokenizer is a custom tokenizer not yet available in the "
    "HuggingFace transformers library, consider setting `trust_remote_code=True` in LLM or using the "
    "`--trust-remote-code` flag in the CLI."
)
_NO_KERNEL = (
    "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect."
)
_OLD_DRIVER = (
    "RuntimeError: The NVIDIA driver on your system is too old (found version 12080). Please update your GPU driver by "
    "downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)
_LENGTH = (
    "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is needed, which "
    "is larger than the available KV cache memory (3.6 GiB). Based on the available memory, the estimated maximum model "
    f"length is {_LONGEST}. Try increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU backend) "
    f"or decreasing `max_model_len` when initializing the engine. {_CONSERVE}"
)
_NO_BLOCKS = (
    "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the "
    "engine (this flag also controls CPU memory reservation on the CPU backend, despite its name). "
    + _CONSERVE
)
_PROFILING = (
    "AssertionError: Error in memory profiling. Initial free memory 60.12 GiB, current free memory 70.45 GiB. This "
    "happens when other processes sharing the same container release GPU memory while vLLM is profiling during "
    "initialization. To fix this, ensure consistent GPU memory allocation or isolate vLLM in its own container."
)
_FREE_MEMORY = (
    "ValueError: Free memory on device cuda:0 (9.1/79.1 GiB) on startup is less than desired GPU memory utilization "
    "(0.92, 72.77 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
_BFLOAT16 = (
    "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has compute "
    "capability 7.5. You can use float16 instead by explicitly setting the `dtype` flag in CLI, for example: --dtype=half."
)
_OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of "
    "which 1.15 GiB is free. Including non-PyTorch memory, this process has 77.94 GiB memory in use."
)
_NCCL = "NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled system error (run with NCCL_DEBUG=INFO for details)"
_ARCHITECTURE = (
    "ValueError: Model architectures ['NeverHeardOfForCausalLM'] are not supported for now. Supported architectures: "
    "dict_keys(['LlamaForCausalLM', 'Qwen2ForCausalLM'])"
)
_INSPECTED = "ValueError: Model architectures ['LlamaForCausalLM'] failed to be inspected. Please check the logs for more details."


def _asks_less_memory(given: Namespace) -> bool:
    return given.gpu_memory_utilization is not None and given.gpu_memory_utilization < 0.9


VLLM_FAILURES: Mapping[str, PrintedFailure] = {
    "gpu_memory_taken": PrintedFailure(Point.BOOT, _FREE_MEMORY),
    "length_does_not_fit": PrintedFailure(
        Point.CACHE, _LENGTH, mended=lambda given: 0 < (given.max_model_len or 0) <= _LONGEST
    ),
    "no_cache_blocks": PrintedFailure(Point.CACHE, _NO_BLOCKS),
    "profiling_race": PrintedFailure(Point.CACHE, _PROFILING),
    "out_of_memory": PrintedFailure(Point.LOAD, _OUT_OF_MEMORY, mended=_asks_less_memory),
    "out_of_memory_in_capture": PrintedFailure(Point.CAPTURE, _OUT_OF_MEMORY, mended=_asks_less_memory),
    "gated_model": PrintedFailure(Point.CONFIG, _GATED),
    "unknown_model": PrintedFailure(Point.CONFIG, _UNKNOWN),
    "hub_unreachable": PrintedFailure(Point.CONFIG, _UNREACHABLE),
    "not_in_cache": PrintedFailure(Point.CONFIG, _NOT_CACHED),
    "no_weights": PrintedFailure(
        Point.LOAD, "RuntimeError: Cannot find any model weights with `/models/qwen`"
    ),
    "port_taken": PrintedFailure(Point.BIND, "OSError: [Errno 98] Address already in use"),
    "no_kernel_image": PrintedFailure(Point.LOAD, _NO_KERNEL),
    "driver_too_old": PrintedFailure(Point.BOOT, _OLD_DRIVER),
    "cuda_runtime_missing": PrintedFailure(
        Point.CONFIG,
        "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory",
    ),
    "bfloat16": PrintedFailure(
        Point.BOOT, _BFLOAT16, mended=lambda given: given.dtype in ("half", "float16")
    ),
    "shm_too_small": PrintedFailure(
        Point.BOOT,
        "RuntimeError: " + _NCCL,
        before="NCCL WARN Error while creating shared memory segment /dev/shm/nccl-5f2Xa1 (size 9637888)",
    ),
    "nccl": PrintedFailure(Point.BOOT, "torch.distributed.DistBackendError: " + _NCCL + "\nncclSystemError"),
    "remote_code": PrintedFailure(
        Point.CONFIG, _REMOTE_CODE, mended=lambda given: bool(given.trust_remote_code)
    ),
    "tokenizer_code": PrintedFailure(
        Point.CONFIG, _TOKENIZER, mended=lambda given: bool(given.trust_remote_code)
    ),
    "ninja_missing": PrintedFailure(
        Point.COMPILE, "FileNotFoundError: [Errno 2] No such file or directory: 'ninja'"
    ),
    "nvcc_missing": PrintedFailure(
        Point.COMPILE,
        "RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist",
        before="/bin/sh: 1: /usr/local/cuda/bin/nvcc: not found",
    ),
    "compiler_missing": PrintedFailure(
        Point.COMPILE,
        "RuntimeError: Failed to find C compiler. Please specify via CC environment variable or set triton.knobs.build.impl.",
    ),
    "unrecognized_arguments": PrintedFailure(
        Point.ARGUMENTS, "error: unrecognized arguments: --task embed", status=2
    ),
    "unknown_architecture": PrintedFailure(Point.CONFIG, _ARCHITECTURE),
    "gpu_by_uuid": PrintedFailure(
        Point.CONFIG,
        _INSPECTED,
        before="ValueError: invalid literal for int() with base 10: 'GPU-8a1b2c3d'",
    ),
    "sleep_unsupported": PrintedFailure(
        Point.CONFIG,
        "ValueError: Sleep mode is not supported on current platform.",
        mended=lambda given: not given.enable_sleep_mode,
    ),
    "worker_died": PrintedFailure(
        Point.LOAD,
        "RuntimeError: Engine core process EngineCore died unexpectedly.",
        before="ERROR Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down executor.",
    ),
    "oom_killed": PrintedFailure(Point.LOAD, signal=9),
    "segmentation_fault": PrintedFailure(Point.LOAD, signal=11),
    "core_died": PrintedFailure(Point.READY, status=0),
    "unmatched": PrintedFailure(Point.BOOT, "KeyError: 'model.layers.0.self_attn.flux_capacitor'"),
    "silent": PrintedFailure(Point.CONFIG),
    "stalled": PrintedFailure(Point.LOAD, hangs=True),
}

TEI_FAILURES: Mapping[str, PrintedFailure] = {
    "gated_model": PrintedFailure(
        Point.CONFIG,
        "Could not download model artifacts\n\nCaused by:\n    0: request error: HTTP status client error (401 "
        "Unauthorized) for url (https://huggingface.co/google/embeddinggemma-300m/resolve/main/config.json)\n"
        "    1: HTTP status client error (401 Unauthorized) for url "
        "(https://huggingface.co/google/embeddinggemma-300m/resolve/main/config.json)",
    ),
    "unknown_model": PrintedFailure(
        Point.CONFIG,
        "Could not download model artifacts\n\nCaused by:\n    0: request error: HTTP status client error (404 Not Found) "
        "for url (https://huggingface.co/nobody/no-such-model/resolve/main/config.json)\n    1: HTTP status client error "
        "(404 Not Found) for url (https://huggingface.co/nobody/no-such-model/resolve/main/config.json)",
    ),
    "hub_unreachable": PrintedFailure(
        Point.CONFIG,
        "Could not download model artifacts\n\nCaused by:\n    0: request error: error sending request for url "
        "(https://huggingface.co/BAAI/bge-m3/resolve/main/config.json)\n    1: client error (Connect)\n"
        "    2: dns error: failed to lookup address information: Temporary failure in name resolution",
    ),
    "out_of_memory": PrintedFailure(
        Point.CAPTURE,
        'Model backend is not healthy\n\nCaused by:\n    Inference error: DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of '
        'memory")',
        mended=lambda given: given.max_batch_tokens < 16384,
    ),
    "wrong_build": PrintedFailure(
        Point.LOAD,
        "Could not create backend\n\nCaused by:\n    Could not start backend: Could not start a suitable backend",
        before="Could not start Candle backend: Could not start backend: Runtime compute cap 75 is not compatible with "
        "compile time compute cap 80",
    ),
    "no_fast_tokenizer": PrintedFailure(
        Point.CONFIG,
        "thread 'main' panicked at router/src/lib.rs:141:72:\ntokenizer.json not found. text-embeddings-inference only "
        "supports fast tokenizers: No such file or directory (os error 2)\n"
        "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
        status=101,
    ),
    "length_above_batch": PrintedFailure(
        Point.CONFIG,
        "The maximum input length is `32768` which exceeds `--max-batch-tokens=16384`. Either increase "
        "`--max-batch-tokens` to at least `32768`, or set `--auto-truncate true` so that regardless the maximum input "
        "length, those are truncated to `16384` tokens.",
    ),
    "port_taken": PrintedFailure(
        Point.BIND,
        "Could not bind TCP Listener on 127.0.0.1:3000\n\nCaused by:\n    Address already in use (os error 98)",
    ),
    "oom_killed": PrintedFailure(Point.LOAD, signal=9),
    "unmatched": PrintedFailure(
        Point.LOAD, "Could not create backend\n\nCaused by:\n    the flux capacitor is empty"
    ),
    "stalled": PrintedFailure(Point.LOAD, hangs=True),
}

INFINITY_FAILURES: Mapping[str, PrintedFailure] = {
    "unknown_model": PrintedFailure(Point.LOAD, _UNKNOWN, status=3),
    "gated_model": PrintedFailure(Point.LOAD, _GATED, status=3),
    "hub_unreachable": PrintedFailure(Point.LOAD, _UNREACHABLE, status=3),
    "remote_code": PrintedFailure(
        Point.LOAD, _REMOTE_CODE, status=3, mended=lambda given: bool(given.trust_remote_code)
    ),
    "out_of_memory": PrintedFailure(Point.CAPTURE, _OUT_OF_MEMORY, status=3),
    "port_taken": PrintedFailure(
        Point.BIND,
        "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 7997): address already in use",
    ),
    "unrecognized_arguments": PrintedFailure(Point.ARGUMENTS, "No such option: --task", status=2),
    "oom_killed": PrintedFailure(Point.LOAD, signal=9),
    "unmatched": PrintedFailure(Point.LOAD, "KeyError: 'flux_capacitor'", status=3),
    "stalled": PrintedFailure(Point.LOAD, hangs=True),
}

LLAMA_SERVER_FAILURES: Mapping[str, PrintedFailure] = {
    "no_weights": PrintedFailure(
        Point.LOAD,
        before="gguf_init_from_file: failed to open GGUF file '/models/m.gguf' (No such file or directory)\n"
        "llama_model_load: error loading model: llama_model_loader: failed to load model from /models/m.gguf",
    ),
    "unknown_architecture": PrintedFailure(
        Point.LOAD,
        before="llama_model_load: error loading model: unknown model architecture: 'never-heard-of'",
    ),
    "out_of_memory": PrintedFailure(
        Point.LOAD,
        before="ggml_backend_cuda_buffer_type_alloc_buffer: allocating 13862.18 MiB on device 0: cudaMalloc failed: out of "
        "memory\nalloc_tensor_range: failed to allocate CUDA0 buffer of size 14535567360\n"
        "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
    ),
    "no_kernel_image": PrintedFailure(
        Point.CAPTURE,
        before="ggml_cuda_compute_forward: RMS_NORM failed\n"
        "CUDA error: no kernel image is available for execution on the device",
        signal=6,
    ),
    "port_taken": PrintedFailure(
        Point.BIND, "start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080"
    ),
    "unrecognized_arguments": PrintedFailure(Point.ARGUMENTS, "error: invalid argument: --task"),
    "oom_killed": PrintedFailure(Point.LOAD, signal=9),
    "unmatched": PrintedFailure(
        Point.LOAD, before="llama_model_load: error loading model: the flux capacitor is empty"
    ),
    "stalled": PrintedFailure(Point.LOAD, hangs=True),
}
