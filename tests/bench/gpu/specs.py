"""The engines of a run: the model of each, its arguments for vLLM, and what to try if it does not start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

CHAT_MODEL, SMALL_MODEL = "qwen2.5-7b-instruct", "qwen2.5-0.5b-instruct"
EMBEDDING_MODEL, RERANKER_MODEL, REAL_MODEL = "bge-m3", "bge-reranker", "real"
MAX_TEXT_TOKENS = 8192


class Role(StrEnum):
    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANKER = "reranker"


@dataclass(frozen=True, slots=True)
class Variant:
    """Further arguments and environment variables."""

    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spec:
    """``folder``: of the model, in the folder of models. ``variants``: the second is tried if the first one ends."""

    name: str
    role: Role
    model: str
    folder: str
    arguments: tuple[str, ...]
    variants: tuple[Variant, ...]
    gpu: int = 0  # the first one if the machine has no such GPU
    random_weights: bool = True


_NO_INDUCTOR = Variant(("--compilation-config", '{"mode":0,"cudagraph_mode":"FULL_DECODE_ONLY"}'))
_DEFAULT = Variant()
_EAGER = Variant(("--enforce-eager",))
_EAGER_V1 = Variant(("--enforce-eager",), {"VLLM_USE_V2_MODEL_RUNNER": "0"})
_CHAT_VARIANTS = (_NO_INDUCTOR, _DEFAULT, _EAGER_V1)
# Random weights write legal white space until max_tokens, if the grammar has any.
_COMPACT_JSON = (
    "--structured-outputs-config",
    '{"backend":"xgrammar","disable_any_whitespace":true}',
)
# Without them vLLM answers a forced tool call with 400 (vllm-project/vllm#30613).
_TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")


def _chat(name: str, gpu: int) -> Spec:
    arguments = ("--dtype", "bfloat16", "--max-model-len", "131072", "--enable-prompt-tokens-details")
    memory = ("--gpu-memory-utilization", "0.35", "--kv-cache-memory-bytes", "38G")
    return Spec(name, Role.CHAT, CHAT_MODEL, "qwen7b", (*arguments, *memory), _CHAT_VARIANTS, gpu)


def _small(name: str, *more: str) -> Spec:
    arguments = ("--dtype", "bfloat16", "--max-model-len", "16384", "--enable-prompt-tokens-details")
    memory = ("--gpu-memory-utilization", "0.06", "--kv-cache-memory-bytes", "2G", "--enable-sleep-mode")
    every = (*arguments, *memory, *_COMPACT_JSON, *_TOOLS, *more)
    return Spec(name, Role.CHAT, SMALL_MODEL, "qwen05b", every, _CHAT_VARIANTS)


def _pair(name: str, side_channel: int) -> Spec:
    """An engine that can compute prompts for another one, or take them from it. Both fit on one GPU beside the rest."""
    transfer = ("--kv-transfer-config", '{"kv_connector":"NixlConnector","kv_role":"kv_both"}')
    arguments = ("--dtype", "bfloat16", "--max-model-len", "32768", "--enable-prompt-tokens-details")
    memory = ("--gpu-memory-utilization", "0.2", "--kv-cache-memory-bytes", "16G")
    place = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_channel)}
    variants = tuple(
        Variant(variant.arguments, {**variant.environment, **place}) for variant in _CHAT_VARIANTS
    )
    return Spec(name, Role.CHAT, CHAT_MODEL, "qwen7b", (*arguments, *memory, *transfer), variants)


def _pooling(name: str, role: Role, model: str, folder: str, variants: tuple[Variant, ...]) -> Spec:
    arguments = ("--runner", "pooling", "--dtype", "float16", "--max-model-len", str(MAX_TEXT_TOKENS))
    memory = ("--gpu-memory-utilization", "0.04", "--kv-cache-memory-bytes", "256M")
    return Spec(name, role, model, folder, (*arguments, *memory), variants)


SPECS: Mapping[str, Spec] = {
    spec.name: spec
    for spec in (
        _chat("a", 0),
        _chat("b", 1),
        _pooling("e", Role.EMBEDDING, EMBEDDING_MODEL, "bge-m3", (_DEFAULT, _EAGER)),
        _pooling("r", Role.RERANKER, RERANKER_MODEL, "bge-reranker", (_EAGER,)),
        _small("s"),
        _small("t", "--shutdown-timeout", "30"),
        _pair("p", 5600),
        _pair("d", 5700),
        Spec(
            "m",
            Role.CHAT,
            REAL_MODEL,
            "real",
            ("--max-model-len", "2048", "--gpu-memory-utilization", "0.06", "--kv-cache-memory-bytes", "1G"),
            (_EAGER,),
            random_weights=False,
        ),
    )
}
