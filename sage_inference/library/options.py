"""The fields of ``UnifiedServerConfig`` and ``HybridSchedulingConfig`` as keyword arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from sage_inference.config.backend import Backend
from sage_inference.library.config import SchedulingPolicyType


class ServerFields(TypedDict, total=False):
    host: str
    port: int
    llm_backends: Sequence[Backend]
    embedding_backends: Sequence[Backend]
    scheduling_policy: SchedulingPolicyType | str
    enable_control_plane: bool
    enable_cors: bool
    cors_origins: Sequence[str]
    log_level: str
    request_timeout: float
    api_keys: Sequence[str]
    allowed_hosts: Sequence[str]


class HybridFields(TypedDict, total=False):
    embedding_batch_size: int
    embedding_priority: str
    llm_fallback_policy: str
    hybrid_instance_ratio: float
    prefer_specialized_instances: bool
    max_embedding_wait_ms: float
    enable_embedding_batching: bool
    min_embedding_batch_size: int
