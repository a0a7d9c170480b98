"""The hybrid policy as an object: generation by the fallback policy, embeddings in batches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Unpack

from msgspec.structs import replace

from sage_inference.control_plane.policies import hybrid_with
from sage_inference.control_plane.policies.base import Clock
from sage_inference.library.hybrid_config import HybridSchedulingConfig
from sage_inference.library.options import HybridFields
from sage_inference.library.policies import SchedulingPolicy, counted_as_load
from sage_inference.library.requests import RequestMetadata
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest


class HybridSchedulingPolicy(SchedulingPolicy):
    """Places generation in the order of ``llm_fallback_policy``, and the texts for one model together.

    ``embedding_priority`` high or low puts embeddings before or behind all generation of the same call. Requests that
    are placed together have the same ``batch_id`` in their decisions' ``metadata``. A single call does not use the
    ratio of GPU time and the wait for a fuller batch, because both need the passing of time; a gateway uses them.
    """

    name = "hybrid"

    def __init__(
        self,
        config: HybridSchedulingConfig | None = None,
        *,
        clock: Clock = time.monotonic,
        **keywords: Unpack[HybridFields],
    ) -> None:
        """Takes a ``HybridSchedulingConfig``, or its fields as keywords. All have defaults.

        Raises ``ValueError`` for a value out of range, and ``TypeError`` for both a config and fields.
        """
        if config is not None and keywords:
            raise TypeError(f"config has all fields: give either config or {', '.join(keywords)}")
        if config is not None and not isinstance(config, HybridSchedulingConfig):
            raise TypeError(f"config must be a HybridSchedulingConfig, not {type(config).__name__}")
        self.config = config if config is not None else HybridSchedulingConfig(**keywords)
        self.prefer_specialized = self.config.prefer_specialized_instances
        super().__init__(clock)
        self._inner = hybrid_with(self.config.llm_fallback_policy, clock)

    def settings(self) -> dict[str, Any]:
        return {"policy": self.name, **asdict(self.config)}

    def prioritize(self, requests: Sequence[RequestMetadata]) -> list[RequestMetadata]:
        ordered = super().prioritize(requests)
        first = {"high": True, "low": False}.get(self.config.embedding_priority)
        if first is None:
            return ordered
        return sorted(ordered, key=lambda request: request.is_embedding_request is not first)

    def schedule(
        self, requests: Sequence[RequestMetadata], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        by_id = {instance.instance_id: instance for instance in instances}
        decisions: list[SchedulingDecision] = []
        with counted_as_load(self._clock()) as place:
            for number, batch in enumerate(self._batches(self.prioritize(requests))):
                combined = _as_one(batch)
                decision = self._decide(combined, self._candidates(combined, instances))
                if decision is not None:
                    place(combined, by_id[decision.target_instance_id])
                    decisions += _for_each(batch, decision, number)
        self._count(requests, decisions)
        return decisions

    def _batches(self, ordered: Iterable[RequestMetadata]) -> list[list[RequestMetadata]]:
        """Embeddings for one model together, at the place of the first. No request is divided."""
        found: list[list[RequestMetadata]] = []
        open_: dict[str, list[RequestMetadata]] = {}
        for request in ordered:
            batch = open_.get(request.effective_model_name) if request.is_embedding_request else None
            if batch is not None and _texts(batch) + _texts([request]) <= self._most(request):
                batch.append(request)
                continue
            batch = [request]
            found.append(batch)
            if request.is_embedding_request and self.config.enable_embedding_batching:
                open_[request.effective_model_name] = batch
        return found

    def _most(self, request: RequestMetadata) -> int:
        own = request.embedding_batch_size
        return min(own, self.config.embedding_batch_size) if own else self.config.embedding_batch_size


def _texts(batch: Sequence[RequestMetadata]) -> int:
    return sum(len(request.embedding_texts or ("",)) for request in batch)


def _as_one(batch: Sequence[RequestMetadata]) -> SchedulingRequest:
    measured = [request.for_scheduling() for request in batch]
    measured[0].prompt_tokens = sum(request.prompt_tokens for request in measured)
    return measured[0]


def _for_each(
    batch: Sequence[RequestMetadata], decision: SchedulingDecision, number: int
) -> list[SchedulingDecision]:
    metadata = {"batch_id": number, "batch_texts": _texts(batch)} if batch[0].is_embedding_request else None
    return [replace(decision, request_id=request.request_id, metadata=metadata) for request in batch]
