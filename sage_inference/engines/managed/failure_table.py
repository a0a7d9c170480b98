"""Failures that engines are known to have: the line that shows each, its sentence, its hint, and the retry."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from re import Match

from sage_inference.engines.managed import failure_causes as causes
from sage_inference.engines.managed.failure import Case, EngineFailure

Explain = Callable[[Match[str], Case], EngineFailure | None]


@dataclass(frozen=True, slots=True)
class Row:
    """``explain`` returns None if the line has another cause."""

    pattern: re.Pattern[str]
    explain: Explain


def _row(pattern: str, explain: Explain) -> Row:
    return Row(re.compile(pattern), explain)


# Texts of vLLM 0.25.1 and 0.32.0, TEI 1.9, infinity 0.0.78, and of torch, transformers and NCCL below them.
_MEMORY = (
    _row(
        r"Free memory on device (?:\w+:)?(?P<gpu>\d{0,3}) ?\((?P<free>\d{1,9}(?:\.\d{1,9})?)/(?P<total>\d{1,9}(?:\.\d{1,9})?) GiB\) on startup is less than "
        r"desired GPU memory utilization \((?P<share>\d{1,9}(?:\.\d{1,9})?), (?P<wanted>\d{1,9}(?:\.\d{1,9})?) GiB\)",
        causes.gpu_memory_taken,
    ),
    _row(
        r"Available memory on node \S+ \((?P<free>\d{1,9}(?:\.\d{1,9})?)/(?P<total>\d{1,9}(?:\.\d{1,9})?) GiB\) on (?:startup|kv cache)(?:.*requested memory for kv \((?P<wanted>\d{1,9}(?:\.\d{1,9})?) GiB)?",
        causes.host_memory_taken,
    ),
    _row(
        r"(?:models?'?s? max seq len|max seq len) \((?P<asked>\d{1,12})\)[^.]*?\(?(?P<needed>\d{1,9}(?:\.\d{1,9})?) GiB KV cache is needed.*?"
        r"available KV cache memory \((?P<there>\d{1,9}(?:\.\d{1,9})?) GiB\)(?:.*?estimated maximum model length is (?P<fits>\d{1,12}))?",
        causes.length_does_not_fit,
    ),
    _row(r"No available memory for the cache blocks", causes.no_cache_blocks),
    _row(r"Error in memory profiling", causes.profiling_race),
    _row(
        r"CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY|CUDA error: out of memory|cudaMalloc failed: out of memory",
        causes.out_of_memory,
    ),
)
_GPUS = (
    _row(
        r"Runtime compute cap (?P<there>\d{1,4}) is not compatible with compile time compute cap (?P<built>\d{1,4})",
        causes.wrong_build,
    ),
    _row(r"no kernel image is available|Could not start a suitable backend", causes.wrong_build),
    _row(
        r"NVIDIA driver on your system is too old \(found version (?P<found>\d{1,9})\)|(?P<library>lib(?:cudart|cublas|cuda|nvrtc)[\w-]*\.so[.\d]*): "
        r"cannot open shared object|CUDA driver version is insufficient",
        causes.driver_too_old,
    ),
    _row(r"Bfloat16 is only supported on GPUs with compute capability", causes.no_bfloat16),
    _row(
        r"Error while creating shared memory segment|No space left on device.*(?:shm|psm_)|(?:/dev/shm|shm_open|psm_).*No space left on device",
        causes.shared_memory,
    ),
    _row(
        r"\bNCCL error\b|ncclSystemError|ncclUnhandledCudaError|ncclInternalError|ncclRemoteError",
        causes.nccl,
    ),
    _row(
        r"Failed to infer device type|No CUDA GPUs are available|no CUDA-capable device is detected",
        causes.no_gpu,
    ),
)
_MODEL = (
    _row(
        r"You are trying to access a gated repo|Access to model (?P<model>\S+) is restricted|Cannot access gated repo for url \S+?//[^/]+/(?P<repo>[^/]+/[^/]+)/",
        causes.gated,
    ),
    _row(
        r"HTTP status client error \((?P<status>401|403|404)[^)]*\) for url \(\S+?//[^/]+/(?P<model>[^/]+/[^/]+)/",
        causes.refused_by_hub,
    ),
    _row(
        r"(?P<model>\S{1,200}) is not a local folder and is not a valid model identifier",
        causes.unknown_model,
    ),
    _row(r"(?:RepositoryNotFoundError|RevisionNotFoundError)\b", causes.unknown_model),
    _row(
        r"We couldn't connect to '|LocalEntryNotFoundError|OfflineModeIsEnabled|outgoing traffic has been disabled"
        r"|error sending request for url|Failed to resolve '[\w.-]*huggingface|NameResolutionError"
        # Of llama-server: the second of these is all that it prints where downloads are switched off.
        r"|get_repo_commit: error: (?:HTTPS)?|exactly one out metadata, path_model, and file must be defined",
        causes.hub_unreachable,
    ),
    _row(r"Cannot find any model weights with [`'\"]?(?P<place>[^`'\"\s]+)", causes.no_weights),
    _row(
        r"requires you to execute the (?P<file>\w+) file|contains custom code which must be executed|Failed to load the tokenizer.*trust_remote_code",
        causes.remote_code,
    ),
    _row(
        r"tokenizer\.json not found|only supports fast tokenizers|Can't load tokenizer for",
        causes.no_tokenizer,
    ),
    _row(
        r"Model architectures \[(?P<name>[^\]]*)\] are not supported|model type `(?P<type>[^`]+)` but Transformers does not recognize|unknown model architecture: '(?P<gguf>[^']+)'",
        causes.unknown_architecture,
    ),
    _row(r"invalid literal for int\(\) with base 10: '(?:GPU|MIG)-", causes.gpu_by_uuid),
    _row(
        r"maximum input length is `(?P<length>\d{1,12})` which exceeds `--max-batch-tokens=(?P<batch>\d{1,12})`",
        causes.batch_too_small,
    ),
)
_PROGRAM = (
    _row(
        r"\[Errno 98\]|Address already in use|EADDRINUSE|couldn't bind HTTP server socket",
        causes.address_taken,
    ),
    _row(
        r"No such file or directory: '(?P<a>ninja|nvcc|gcc|g\+\+|cc)'|(?P<b>ninja|nvcc|gcc|g\+\+): (?:\d+: )?(?:command )?not found"
        r"|not found: '?(?P<c>ninja|nvcc|gcc|g\+\+)|Could not find (?P<d>nvcc)|Failed to find (?P<e>C compiler)",
        causes.tool_missing,
    ),
    _row(
        r"error: unrecognized arguments: (?P<unknown>.+)|error: unexpected argument '(?P<clap>[^']+)'|No such option: (?P<typer>\S+)"
        r"|error: invalid argument: (?P<llama>\S+)",
        causes.unknown_arguments,
    ),
    _row(
        r"(?:error: |^error while handling )(?P<wrong>argument (?:\S+: |\").+|the following (?:required )?arguments .+)",
        causes.wrong_arguments,
    ),
    _row(r"Sleep mode is not supported on current platform", causes.no_sleep),
)
ROWS = (*_MEMORY, *_GPUS, *_MODEL, *_PROGRAM)
# While an engine serves, answers to requests may have any other text of the table.
AFTER_READY = tuple(
    row
    for row in (*_MEMORY, *_GPUS)
    if row.explain in (causes.out_of_memory, causes.nccl, causes.shared_memory)
)


_NOT_PROBLEMS = ("DEBUG", "INFO", "WARN", "WARNING")


def matching(rows: Sequence[Row], case: Case) -> EngineFailure | None:
    """The failure of the first line that one of ``rows`` explains."""
    for line in case.lines:
        if not line.text or line.level in _NOT_PROBLEMS:
            continue
        for row in rows:
            found = row.pattern.search(line.text)
            failure = row.explain(found, case) if found else None
            if failure is not None:
                return failure
    return None
