"""How embeddings and generation share instances: the user's own names for it, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass

from sage_inference.config.settings import SchedulingSettings
from sage_inference.control_plane.embedding import AggregationRules


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridSchedulingConfig:
    """``embedding_batch_size`` caps the texts of a call; ``max_embedding_wait_ms`` is an upper bound of a wait
    that only ``min_embedding_batch_size`` above 1 asks for. ``hybrid_instance_ratio`` is the share of GPU time
    for generation on a mixed instance while both kinds wait.
    """

    embedding_batch_size: int = 32
    embedding_priority: str = "normal"
    llm_fallback_policy: str = "adaptive"
    hybrid_instance_ratio: float = 0.7
    prefer_specialized_instances: bool = True
    max_embedding_wait_ms: float = 50.0
    enable_embedding_batching: bool = True
    min_embedding_batch_size: int = 1

    @classmethod
    def of(cls, settings: SchedulingSettings) -> HybridSchedulingConfig:
        return cls(
            embedding_batch_size=settings.embedding_batch_size,
            embedding_priority=settings.embedding_priority,
            llm_fallback_policy=settings.llm_fallback_policy,
            hybrid_instance_ratio=settings.hybrid_instance_ratio,
            prefer_specialized_instances=settings.prefer_specialized_instances,
            max_embedding_wait_ms=settings.max_embedding_wait_ms,
            enable_embedding_batching=settings.enable_embedding_batching,
            min_embedding_batch_size=settings.min_embedding_batch_size,
        )

    def aggregation(self, *, cache_bytes: int = 0) -> AggregationRules:
        """What of it the aggregation of texts goes by."""
        return AggregationRules(
            max_texts=self.embedding_batch_size,
            min_texts=self.min_embedding_batch_size,
            max_wait_s=self.max_embedding_wait_ms / 1000,
            merges=self.enable_embedding_batching,
            cache_bytes=cache_bytes,
        )
