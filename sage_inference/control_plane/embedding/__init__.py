"""Aggregation of texts across callers: decides which texts go into one engine call, and when."""

from __future__ import annotations

from sage_inference.control_plane.embedding.batch import EmbeddingBatch
from sage_inference.control_plane.embedding.batcher import AggregationRules, Aggregator
from sage_inference.control_plane.embedding.call_window import Room
from sage_inference.control_plane.embedding.limits import CallLimits
from sage_inference.control_plane.embedding.request import EmbeddingPriority, Job

__all__ = [
    "AggregationRules",
    "Aggregator",
    "CallLimits",
    "EmbeddingBatch",
    "EmbeddingPriority",
    "Job",
    "Room",
]
