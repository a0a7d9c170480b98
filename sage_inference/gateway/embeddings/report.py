"""Counts of merging, as status and metrics show them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sage_inference.control_plane.embedding import CallWindow
from sage_inference.control_plane.instances.registry import VECTOR_ROUTES
from sage_inference.gateway.embeddings.service import EmbeddingService
from sage_inference.telemetry.exposition import Exposition


def status_of(service: EmbeddingService) -> dict[str, Any]:
    """Totals since the start, what waits now, and the rules in force."""
    batcher = service.batcher
    counters, rules = batcher.counters, batcher.rules
    return {
        "requests": counters.requests,
        "texts": counters.texts,
        "calls": counters.calls,
        "texts_per_call": round(counters.texts_per_call, 2),
        "merge_factor": round(counters.merge_factor, 2),
        "mean_wait_ms": round(counters.mean_wait_ms, 2),
        "shared_texts": counters.shared_texts,
        "cached_texts": counters.cached_texts,
        "splits": counters.splits,
        "retries": counters.retries,
        "in_flight": batcher.jobs,
        "waiting_texts": sum(merge_queue.waiting for merge_queue in batcher.merge_queues.values()),
        "cache_bytes": batcher.cache.size,
        "windows": [
            {
                "instance": name,
                "calls_in_flight": len(window.batches),
                "bulk_calls_in_flight": window.bulk,
                "bulk_calls_allowed": window.learned.calls,
                "with_interactive": window.learned.in_company,
                "tokens_per_s": None if window.learned.rate is None else round(window.learned.rate),
            }
            for name, window in _windows(service).items()
        ],
        "rules": {
            "batching": rules.merges,
            "batch_size": rules.max_texts,
            "min_batch_size": rules.min_texts,
            "max_wait_ms": rules.max_wait_s * 1000,
        },
    }


def _windows(service: EmbeddingService) -> dict[str, CallWindow]:
    """The windows of the instances that serve embeddings."""
    engines = service.gateway.engines.items()
    return {name: engine.window for name, engine in engines if VECTOR_ROUTES & engine.instance.routes}


_COUNTERS = {
    "requests": "Embedding requests whose texts could be merged.",
    "texts": "Texts in them.",
    "calls": "Calls to engines for them.",
    "sent_texts": "Texts in those calls.",
    "shared_texts": "Texts that were under way for somebody else already.",
    "cached_texts": "Texts answered from the cache.",
    "splits": "Calls that were cut in two to find a bad text.",
    "retries": "Calls made again on another instance.",
}


def expose(service: EmbeddingService, page: Exposition) -> None:
    batcher = service.batcher
    counters = asdict(batcher.counters)
    for name, words in _COUNTERS.items():
        page.counter(f"sage_embedding_{name}_total", words, [({}, counters[name])])
    page.counter(
        "sage_embedding_wait_seconds_total",
        "Time that sent texts waited for their call.",
        [({}, counters["wait_s"])],
    )
    page.gauge("sage_embedding_requests_in_flight", "Requests under way.", [({}, batcher.jobs)])
    page.gauge(
        "sage_embedding_texts_waiting",
        "Texts that wait for a call.",
        [({}, sum(merge_queue.waiting for merge_queue in batcher.merge_queues.values()))],
    )
    windows = [({"instance": name}, window) for name, window in _windows(service).items()]
    page.gauge(
        "sage_embedding_calls_in_flight",
        "Calls with texts that an instance has not answered.",
        [(labels, len(window.batches)) for labels, window in windows],
    )
    page.gauge(
        "sage_embedding_bulk_calls_allowed",
        "Calls of bulk texts that an instance may have at a time, as learned from its throughput.",
        [(labels, window.learned.calls) for labels, window in windows],
    )
    page.gauge(
        "sage_embedding_tokens_per_second",
        "Tokens finished in a second, estimated, when bulk texts last waited for the window of an instance.",
        [(labels, rate) for labels, window in windows if (rate := window.learned.rate) is not None],
    )
    page.gauge("sage_embedding_cache_bytes", "Memory of the cache.", [({}, batcher.cache.size)])
