"""Aggregation of texts across callers: decides which texts go into one engine call, and when."""

from __future__ import annotations

from sage_inference.control_plane.embedding.batch import EmbeddingBatch
from sage_inference.control_plane.embedding.batcher import AggregationRules, Batcher
from sage_inference.control_plane.embedding.call_window import CallWindow
from sage_inference.control_plane.embedding.limits import CallLimits
from sage_inference.control_plane.embedding.request import EmbeddingJob, EmbeddingPriority

__all__ = [
    "AggregationRules",
    "Batcher",
    "CallLimits",
    "CallWindow",
    "EmbeddingBatch",
    "EmbeddingJob",
    "EmbeddingPriority",
]
