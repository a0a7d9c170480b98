"""The settings by which embeddings and generation share instances, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sage_inference.config.errors import Invalid
from sage_inference.config.schema import keys
from sage_inference.config.settings import SchedulingSettings
from sage_inference.config.values import check_value


@dataclass(frozen=True, slots=True)
class HybridSchedulingConfig:
    """Settings of ``HybridSchedulingPolicy``. Each takes the values of its namesake in ``scheduling``.

    ``embedding_batch_size`` is the most texts of a call. ``max_embedding_wait_ms`` limits the wait for
    ``min_embedding_batch_size`` texts; with 1 nothing waits. ``hybrid_instance_ratio`` is the share of GPU time for
    generation on a mixed instance while both kinds wait. Any other value raises ``ValueError``.
    """

    embedding_batch_size: int = 32
    embedding_priority: str = "normal"
    llm_fallback_policy: str = "adaptive"
    hybrid_instance_ratio: float = 0.7
    prefer_specialized_instances: bool = True
    max_embedding_wait_ms: float = 50.0
    enable_embedding_batching: bool = True
    min_embedding_batch_size: int = 1

    def __post_init__(self) -> None:
        known = keys(SchedulingSettings)
        for one in fields(self):
            key, given = known[one.name], getattr(self, one.name)
            if key.choices and isinstance(given, str):
                given = given.strip().lower()  # names of enumeration members as well
            try:
                object.__setattr__(self, one.name, check_value(key, key.shape, given))
            except Invalid as error:
                hint = f"; {error.hint}" if error.hint else ""
                raise ValueError(f"{one.name} {error.problem}{hint}") from None

    @classmethod
    def of(cls, settings: SchedulingSettings) -> HybridSchedulingConfig:
        """The fields of ``settings`` that concern the policy."""
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
