"""The schema of engines that the gateway starts and watches."""

from __future__ import annotations

from dataclasses import dataclass

from sage_inference.config.secrets import Secret
from sage_inference.config.setting import setting

MANAGED_ENGINES = ("auto", "vllm", "tei", "infinity", "llama_server", "command")
MODEL_KINDS = ("auto", "llm", "embedding", "reranker")
STARTS = ("boot", "demand", "manual")
RESTARTS = ("on_failure", "never")
SUPERVISORS = ("auto", "systemd", "plain")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInstanceSettings:
    """The keys of ``instances[]`` that an engine of ours can have. The gateway knows the others."""

    max_concurrent_requests: int = setting(0, doc="Requests at the same time; 0 = no limit.", minimum=0)
    max_batched_tokens: int = setting(
        0, doc="Prompt tokens that may wait in the engine; 0 = 8192, or twice a TEI's batch.", minimum=0
    )
    kv_cache_tokens: int = setting(
        0, doc="Tokens in its prefix cache; 0 = ask vLLM, otherwise assume 1000000.", minimum=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedEngineSettings:
    model: str = setting(
        doc="Model: its name on the hub, a directory, or a file for llama_server.",
        example="Qwen/Qwen2.5-7B-Instruct",
    )
    name: str | None = setting(
        None,
        doc="Name of the engine; by default the last part of model, in lower case.",
        format="engine_name",
    )
    served_names: tuple[str, ...] = setting(
        (), doc="Names of the model that requests use; by default model.", loose=True
    )
    engine: str = setting(
        "auto",
        doc="Program; auto is vllm for text, and for embeddings the first that is installed of tei, vllm and infinity.",
        choices=MANAGED_ENGINES,
    )
    kind: str = setting("auto", doc="Kind of the model; auto reads its files.", choices=MODEL_KINDS)
    revision: str | None = setting(None, doc="Branch, tag or commit of the model on the hub.", loose=True)
    gpus: tuple[str, ...] = setting(
        ("auto",),
        doc="GPUs by index or UUID, or cpu; auto takes those with the most free memory.",
        format="gpu",
        example="[0, 1]",
        loose=True,
    )
    tensor_parallel: int = setting(
        0,
        doc="GPUs that vllm divides the model among; 0 = as many as gpus lists, or as the weights need.",
        minimum=0,
    )
    memory: str | None = setting(
        None,
        doc="Memory on each GPU, as a size or a share of its total; on a CPU the size of vLLM's KV cache. "
        "By default 1.3 times the weights and 2 GiB for embeddings, and the rest of 92 % for text.",
        format="memory",
        example="20GiB",
        loose=True,
    )
    max_model_len: int = setting(
        0, doc="Most tokens of a request and its answer; 0 = as many as fit, at most the model's.", minimum=0
    )
    dtype: str | None = setting(None, doc="Number format of the weights; the engine's default otherwise.")
    quantization: str | None = setting(
        None, doc="Quantization for vllm; read from the model's files otherwise."
    )
    trust_remote_code: bool = setting(False, doc="Run Python code that the model's repository brings.")
    start: str = setting(
        "boot",
        doc="When it starts: with the gateway, at the first request, or by sage inference load.",
        choices=STARTS,
    )
    restart: str = setting(
        "on_failure", doc="Start again after an exit that nobody ordered.", choices=RESTARTS
    )
    start_timeout_s: float = setting(3600.0, doc="Longest start, with download.", minimum=1)
    stall_s: float = setting(
        600.0,
        doc="Longest time in a start without a log line, a byte or CPU use; once ready, without any answer.",
        minimum=1,
    )
    args: tuple[str, ...] = setting(
        (),
        doc="Further arguments of the engine's command line.",
        example="[--max-num-seqs, 64]",
        loose=True,
    )
    env: dict[str, Secret] = setting(
        doc="Further variables of the engine's environment; a value may be env:NAME or file:PATH.",
        factory=dict,
        example="{NCCL_P2P_DISABLE: 1}",
        loose=True,
    )
    command: tuple[str, ...] = setting(
        (),
        doc="Command line for engine: command, without a shell. Replaces {host}, {port}, {model}, {name}, {gpus}, {gpu_uuids}.",
        example='[docker, run, --rm, --name, "{name}", -p, "127.0.0.1:{port}:8000", image]',
    )
    stop_command: tuple[str, ...] = setting(
        (),
        doc="Command line that stops it, instead of SIGTERM; the same words are replaced.",
        example='[docker, stop, "{name}"]',
    )
    instance: EngineInstanceSettings = setting(
        doc="Keys that instances have too.", factory=EngineInstanceSettings
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedSettings:
    vllm: tuple[str, ...] = setting(
        (),
        doc="vLLM's executable, its virtual environment, or the words of a command; by default looked for beside this Python and in PATH.",
        example="~/vllm",
        loose=True,
    )
    tei: tuple[str, ...] = setting((), doc="The same for text-embeddings-router.", loose=True)
    infinity: tuple[str, ...] = setting((), doc="The same for infinity_emb.", loose=True)
    llama_server: tuple[str, ...] = setting((), doc="The same for llama-server.", loose=True)
    ports: str = setting(
        "18400-18499",
        doc="Ports of engines that serve on no Unix socket; the first free one is taken.",
        format="ports",
        loose=True,
    )
    hf_home: str | None = setting(
        None, doc="Directory of downloaded models; by default HF_HOME or ~/.cache/huggingface."
    )
    hf_token: Secret | None = setting(
        None, doc="Token for gated models; by default HF_TOKEN.", example="env:HF_TOKEN"
    )
    offline: bool | None = setting(
        None, doc="Use downloaded models only; by default the value of HF_HUB_OFFLINE."
    )
    stop_grace_s: float = setting(15.0, doc="Time from SIGTERM to SIGKILL.", minimum=0)
    orphan_timeout_s: float = setting(
        600.0, doc="Time after which engines stop if no gateway comes back for them.", minimum=1
    )
    log_bytes: int = setting(20971520, doc="Size at which an engine's log rotates.", minimum=4096)
    log_backups: int = setting(3, doc="Rotated logs kept of an engine.", minimum=0, maximum=100)
    supervisor: str = setting(
        "auto",
        doc="What engines run under: a systemd user service where there is one, or a process of their own.",
        choices=SUPERVISORS,
    )
