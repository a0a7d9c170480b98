"""vLLM's server, as of 0.32 (recorded on the wire)."""

from __future__ import annotations

from sage_inference.engines.dialects.base import Dialect
from sage_inference.engines.sleep import IS_SLEEPING, METRICS
from sage_inference.types import EngineKind

_COMMON = frozenset({"/tokenize", "/detokenize"})

VLLM = Dialect(
    EngineKind.VLLM,
    llm_routes=_COMMON
    | {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
    },
    embedding_routes=_COMMON
    | {"/v1/embeddings", "/pooling", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"},
    sleep_paths=(IS_SLEEPING, METRICS),
    draining=b"cannot schedule new futures after shutdown",
    # The message of its EngineDeadError. The server itself ends a few seconds later.
    died=b"EngineCore encountered an issue",
    # Its default is 0 seconds.
    abort_remedy="if it was stopped, vLLM's --shutdown-timeout SECONDS lets it finish first",
)
