"""vLLM: ``vllm serve``, or its module where a build has no working command."""

from __future__ import annotations

from sage_inference.config.sizes import budget
from sage_inference.engines.managed import host_memory
from sage_inference.engines.managed.gpus import gib
from sage_inference.engines.managed.launch import LaunchError
from sage_inference.engines.managed.placement import GIB
from sage_inference.engines.managed.ports import socket_path
from sage_inference.engines.managed.programs import version_at_least
from sage_inference.engines.managed.recipes.base import (
    LONGEST_TEXT,
    Command,
    Start,
    refuse_owned,
)

OWNED = {
    "--host": None,
    "--port": "managed.ports",
    "--uds": None,
    "--api-key": None,
    "--model": "model",
    "--served-model-name": "served_names",
    "--revision": "revision",
    "--runner": "kind",
    "--task": "kind",
    "--tensor-parallel-size": "tensor_parallel",
    "-tp": "tensor_parallel",
    "--gpu-memory-utilization": "memory",
    "--max-model-len": "max_model_len",
    "--dtype": "dtype",
    "--quantization": "quantization",
    "-q": "quantization",
    "--trust-remote-code": "trust_remote_code",
}
# The version whose flags were read. An older one may have them too; without them it works as well.
_CHECKED = (0, 25)
_QUIET_ROUTES = "/health,/metrics,/ping,/v1/models"
_FIRST_WITH_BFLOAT16 = (8, 0)
_CPU_CACHE = 4 * GIB
_CPU_CACHE_SMALL = 1 * GIB
_CPU_BESIDE = 1 * GIB  # the processes themselves
_CPU_LEAST = 64 << 20


def command(start: Start) -> Command:
    """The command of vLLM. Raises ``LaunchError``."""
    engine = start.engine
    refuse_owned(engine.args, OWNED)
    _check_build(start)
    model = ("--model", start.model) if start.program.runs_module else ("serve", start.model)
    where, url, key = _address(start)
    argv = [*start.program.argv, *model, "--served-model-name", *start.served_names, *where]
    argv += ["--runner", "pooling"] if start.is_small else []
    argv += _options(start)
    env = {"VLLM_ENGINE_READY_TIMEOUT_S": str(int(engine.start_timeout_s))}
    if key:
        env["VLLM_API_KEY"] = key  # not among the arguments, which vLLM prints
    if _on_cpu(start):
        more, cpu_env = _cpu(start)
        argv += more
        env |= cpu_env
    else:
        argv += _on_gpus(start)
    return Command((*argv, *engine.args), url, env, key)


def _on_gpus(start: Start) -> list[str]:
    engine, argv = start.engine, list[str]()
    if start.placement.gpus:
        argv += ["--gpu-memory-utilization", f"{start.placement.share:g}"]
    elif engine.memory:  # a GPU that NVML does not show, or a program whose build is not known
        stated = budget(engine.memory)
        argv += (
            ["--gpu-memory-utilization", f"{stated.share:g}"]
            if stated.share is not None
            else ["--kv-cache-memory-bytes", str(stated.bytes)]
        )
    # More GPUs than this are for other arguments, such as --pipeline-parallel-size.
    count = engine.tensor_parallel or len(start.placement.gpus)
    return argv + (["--tensor-parallel-size", str(count)] if count > 1 else [])


def _on_cpu(start: Start) -> bool:
    return start.placement.is_cpu or start.program.for_cpu


def _check_build(start: Start) -> None:
    program, gpus = start.program, start.engine.gpus
    if gpus == ("cpu",) and program.version and not program.for_cpu:
        raise LaunchError(
            f"gpus is cpu, and vLLM {program.version} at {program.argv[0]} is built for GPUs",
            "install a CPU build, and set managed.vllm to its virtual environment",
        )
    if gpus not in (("auto",), ("cpu",)) and program.for_cpu:
        raise LaunchError(
            f"gpus lists {gpus[0]}, and vLLM {program.version} at {program.argv[0]} is built for CPUs",
            "pip install vllm in an environment of its own, and set managed.vllm to it",
        )


def _address(start: Start) -> tuple[list[str], str, str | None]:
    """The arguments for the address, the URL, and the key that guards a port from other users of this machine."""
    if start.listen is None and version_at_least(start.program, *_CHECKED):
        path = socket_path(start.directory)
        if path is not None:
            return ["--uds", str(path)], f"unix:{path}", None
    port, url, key = start.address()
    return ["--host", start.host, "--port", str(port)], url, key


def _options(start: Start) -> list[str]:
    engine, argv = start.engine, list[str]()
    is_checked = version_at_least(start.program, *_CHECKED)
    argv += (
        ["--disable-access-log-for-endpoints", _QUIET_ROUTES]
        if is_checked
        else ["--disable-uvicorn-access-log"]
    )
    if engine.revision and not start.is_local:
        argv += ["--revision", engine.revision]
    length = _length(start, is_checked)
    argv += ["--max-model-len", length] if length else []
    dtype = engine.dtype or ("float16" if _lacks_bfloat16(start) else None)
    argv += ["--dtype", dtype] if dtype else []
    argv += ["--quantization", engine.quantization] if engine.quantization else []
    argv += ["--trust-remote-code"] if engine.trust_remote_code else []
    return argv


def _length(start: Start, is_checked: bool) -> str | None:
    """The value of ``--max-model-len``; None leaves it to the model."""
    facts = start.facts
    if start.engine.max_model_len:
        return str(start.engine.max_model_len)
    has_cache = not start.is_small or facts.cache_per_token > 0
    if is_checked:
        return "auto" if has_cache else None
    # The budget of an embedder has room for so many tokens, and the start fails if the model's own length needs more.
    is_long = start.is_small and has_cache and (facts.max_tokens or 0) > LONGEST_TEXT
    return str(LONGEST_TEXT) if is_long else None


def _lacks_bfloat16(start: Start) -> bool:
    return any(gpu.capability and gpu.capability < _FIRST_WITH_BFLOAT16 for gpu in start.placement.gpus)


def _cpu(start: Start) -> tuple[list[str], dict[str, str]]:
    """Arguments and variables for a CPU. Without a size of the KV cache, vLLM asks for nine tenths of the machine's memory and refuses to start."""
    # Two engines that each bind their threads to cores would bind them to the same ones.
    env = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} if start.shares_cpu else {}
    size = _cache_bytes(start)
    # Compilation takes minutes on a few cores. The arguments of the settings come later, and can undo this.
    argv = ["--enforce-eager"]
    if version_at_least(start.program, *_CHECKED):
        return [*argv, "--kv-cache-memory-bytes", str(size)], env
    return argv, env | {"VLLM_CPU_KVCACHE_SPACE": str(max(1, size // GIB))}


def _cache_bytes(start: Start) -> int:
    weights = start.facts.loaded(start.engine.dtype, start.engine.quantization) or 0
    free = host_memory.available() - weights - _CPU_BESIDE
    stated = start.engine.memory and budget(start.engine.memory).of(host_memory.total())
    wanted = stated or min(_CPU_CACHE_SMALL if start.is_small else _CPU_CACHE, max(free // 2, _CPU_LEAST))
    if wanted > free:
        raise LaunchError(
            f"this machine has {gib(host_memory.available())} of memory free, and {start.name} needs "
            f"{gib(wanted + weights + _CPU_BESIDE)}",
            f"end other programs, or set a smaller memory for {start.name}",
            waits_for_memory=True,
        )
    return wanted
