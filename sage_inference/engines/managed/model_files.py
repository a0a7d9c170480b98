"""Facts about a model from its files: in a directory, in the hub's cache, or on the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

ModelKind = Literal["llm", "embedding", "reranker"]

_LARGEST_JSON = 64 << 20
# Files that sentence-transformers writes beside a model that makes vectors.
_VECTOR_FILES = ("modules.json", "config_sentence_transformers.json")
_GENERATES = (
    "ForCausalLM",
    "ForConditionalGeneration",
    "LMHeadModel",
    "ForSeq2SeqLM",
    "ForCausalLMWithValueHead",
)
# An engine loads the first format that it finds.
WEIGHT_ENDINGS = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model; None where its files do not have them. ``weights`` are bytes on disk.

    ``cache_per_token`` are bytes of KV cache, 0 for models without one and where the form of it is not known.
    """

    kind: ModelKind | None = None
    architectures: tuple[str, ...] = ()
    weights: int | None = None
    heads: int | None = None
    cache_per_token: int = 0
    max_tokens: int | None = None
    dtype: str | None = None
    quantized: bool = False
    is_gguf: bool = False
    commit: str | None = None
    has_fast_tokenizer: bool | None = None
    has_all_weights: bool = True

    def loaded(self, dtype: str | None = None, quantization: str | None = None) -> int | None:
        """Bytes of the weights in memory. Engines load what is stored as float32 in 16 bits, unless ``dtype`` is set.

        None also if the engine quantizes them itself, to a size that only it knows.
        """
        if self.weights is None or (quantization and not self.quantized):
            return None
        if self.quantized:
            return self.weights
        stored = 4 if self.dtype == "float32" else 2
        return self.weights * (4 if dtype in ("float32", "float") else 2) // stored


def of_directory(directory: Path, commit: str | None = None) -> ModelFacts:
    """The facts of a directory with a model's files."""
    try:
        sizes = {each.name: each.stat().st_size for each in directory.iterdir() if each.is_file()}
    except OSError:
        return ModelFacts()
    if "config.json" not in sizes:
        gguf = sum(size for name, size in sizes.items() if name.endswith(".gguf"))
        return ModelFacts("llm", weights=gguf, is_gguf=True) if gguf else ModelFacts()
    index = _json(directory / "model.safetensors.index.json")
    facts = of_files(_json(directory / "config.json"), sizes, index, commit)
    parts = set(_section(index, "weight_map").values()) or {None}
    return replace(facts, has_all_weights=facts.weights is not None and parts <= {None, *sizes})


def of_files(
    config: Mapping[str, Any], sizes: Mapping[str, int], index: Mapping[str, Any], commit: str | None = None
) -> ModelFacts:
    """The facts in a parsed ``config.json``, the sizes of the files at the top, and a parsed index of weights."""
    text = _section(config, "text_config")
    named = config.get("architectures")
    architectures = tuple(str(each) for each in named) if isinstance(named, list) else ()
    dtype = config.get("torch_dtype") or config.get("dtype") or text.get("torch_dtype") or text.get("dtype")
    return ModelFacts(
        kind=_kind(architectures, config, sizes),
        architectures=architectures,
        weights=_weights(sizes, index),
        heads=_whole(config.get("num_attention_heads") or text.get("num_attention_heads")),
        cache_per_token=_cache_per_token(architectures, {**config, **text}),
        max_tokens=_whole(config.get("max_position_embeddings") or text.get("max_position_embeddings")),
        dtype=dtype.removeprefix("torch.") if isinstance(dtype, str) else None,
        quantized=bool(config.get("quantization_config") or config.get("compression_config")),
        commit=commit,
        has_fast_tokenizer="tokenizer.json" in sizes,
    )


def _kind(
    architectures: tuple[str, ...], config: Mapping[str, Any], names: Mapping[str, int]
) -> ModelKind | None:
    if any(each.endswith("ForSequenceClassification") for each in architectures):
        # One label is a score of a pair of texts; several are classes, which the same routes serve.
        return "reranker"
    # Before the architecture: embedders such as Qwen3-Embedding keep that of the chat model they were made from.
    if any(name in names for name in _VECTOR_FILES):
        return "reranker" if "sentence_transformers" in config else "embedding"
    if any(each.endswith(_GENERATES) for each in architectures):
        return "llm"
    if any(
        each.endswith(("Model", "ForMaskedLM", "ForTextEncoding", "ForEmbedding")) for each in architectures
    ):
        return "embedding"
    return None


def _cache_per_token(architectures: tuple[str, ...], config: Mapping[str, Any]) -> int:
    """Keys and values of all layers, in 16 bits."""
    if not any(each.endswith("ForCausalLM") for each in architectures) or config.get("kv_lora_rank"):
        return 0
    layers, heads, width = (
        _whole(config.get(name)) or 0 for name in ("num_hidden_layers", "num_attention_heads", "hidden_size")
    )
    cached = _whole(config.get("num_key_value_heads")) or heads
    size = _whole(config.get("head_dim")) or (width // heads if heads else 0)
    return 2 * layers * cached * size * 2


def _weights(sizes: Mapping[str, int], index: Mapping[str, Any]) -> int | None:
    total = _whole(_section(index, "metadata").get("total_size"))
    if total:
        return total
    # A repository often holds the same weights in several formats.
    for ending in WEIGHT_ENDINGS:
        found = sum(size for name, size in sizes.items() if name.endswith(ending) and "/" not in name)
        if found:
            return found
    return None


def in_cache(model: str, revision: str | None, hub_cache: Path) -> Path | None:
    """The directory of a downloaded model's files, if it has a ``config.json``."""
    folder = cache_folder(model, hub_cache)
    wanted = revision or "main"
    try:
        commit = (folder / "refs" / wanted).read_text().strip()
    except (OSError, ValueError):
        commit = wanted
    if not commit or "/" in commit or commit in (".", ".."):
        return None
    found = folder / "snapshots" / commit
    return found if (found / "config.json").is_file() else None


def cache_folder(model: str, hub_cache: Path) -> Path:
    """The folder of one model in the hub's cache."""
    return hub_cache / f"models--{model.replace('/', '--')}"


def hub_cache_of(env: Mapping[str, str]) -> Path:
    """The hub's cache for an engine with the environment ``env``."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(name):
            return Path(env[name]).expanduser()
    if env.get("HF_HOME"):
        return Path(env["HF_HOME"]).expanduser() / "hub"
    cache = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".cache")
    return Path(cache) / "huggingface" / "hub"


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _whole(value: object) -> int | None:
    return (
        int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
    )
