"""Aggregation of texts across callers: decides which texts go into one engine call, and when."""

from __future__ import annotations

from sage_inference.control_plane.embedding.aggregator import AggregationRules, Aggregator
from sage_inference.control_plane.embedding.batch import EmbeddingBatch
from sage_inference.control_plane.embedding.job import EmbeddingPriority, Job
from sage_inference.control_plane.embedding.limits import CallLimits
from sage_inference.control_plane.embedding.room import Room

__all__ = [
    "AggregationRules",
    "Aggregator",
    "CallLimits",
    "EmbeddingBatch",
    "EmbeddingPriority",
    "Job",
    "Room",
]
