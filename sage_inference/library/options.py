"""The fields of ``UnifiedServerConfig`` as keyword arguments, typed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from sage_inference.library.config import Backend, SchedulingPolicyType


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
