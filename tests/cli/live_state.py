"""A live document as the gateway makes it, and rows of requests."""

from __future__ import annotations

from typing import Any

_AT_MS = 1_790_000_000_000


def instance(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "url": "http://127.0.0.1:1", "engine": "vllm", "kind": "llm", "models": ["qwen2.5-7b"],
        "state": "ready", "simulated": False, "found": False, "source": None, "node": None, "in_flight": 3, "queued": 0, "ttft_ms": 20.0,
        "last_error": None, "gpu": None, "limit": 8, "window_tokens": None, "pending_tokens": 0, "ttfb_ms": None,
        "tpot_ms": 9.5, "tokens_per_s": 310.0, "requests_per_s": 2.5, "answers": 40, "drained": False, "managed": None,
        **more,
    }  # fmt: skip


def engine(name: str, **more: Any) -> dict[str, Any]:
    """An engine that the gateway starts."""
    return {
        "name": name, "model": "llama-8b", "engine": "vllm", "kind": "llm", "state": "starting", "phase": "load",
        "progress": 0.5, "detail": None, "since_s": 41.0, "expected_s": 90.0, "pid": 7, "gpus": [0], "url": None,
        "restarts": 0, "adopted": False, "outdated": False, "failure": None, "warning": None, "in_flight": None,
        "queued": None, "uptime_s": None, "memory_mb": None, "log_file": None, **more,
    }  # fmt: skip


def request(number: int, *, ended: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "number": number if ended else None, "request_id": f"req-{number}", "arrived_ms": _AT_MS - 5000 + number,
        "route": "/v1/chat/completions", "model": "qwen2.5-7b", "priority": "normal", "tenant": "", "streams": True,
        "leg": None, "instance": "gpu-0", "why": "cheapest", "queue_ms": 0.0, "ttft_ms": 12.0,
        "total_ms": 400.0 if ended else None, "prompt_tokens": 10, "completion_tokens": 50 if ended else None,
        "cached_tokens": None, "tokens_estimated": True, "tokens_per_s": 120.0 if ended else None,
        "outcome": "done" if ended else None, "status": 200 if ended else None, **more,
    }  # fmt: skip


def live(*instances: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The document, with one instance unless others are given."""
    return {
        "schema": 1, "state": "running", "version": "0", "pid": 4121, "uptime_s": 11000.0,
        "address": "http://127.0.0.1:8000", "certificate": None, "tracing": None, "usage": None, "needs_key": False, "policy": "hybrid",
        "simulated": False, "discover": False, "slos": [], "engines": [], "sources": [], "warnings": [], "at_ms": _AT_MS,
        "policies": {}, "gpus": [], "running": [], "ended": 0, "instances": [*instances] or [instance("gpu-0")],
        "requests": {
            "in_flight": 3, "queued": 0, "total": 1234, "errors": 2, "cancelled": 0, "cut": 0, "failed_by_engine": 0,
            "retried": 0,
        },
        "rates": {"requests_per_s": 2.5, "errors_per_s": 0.0, "prompt_tokens_per_s": 900.0, "tokens_per_s": 310.0},
        "tokens": {"prompt": 1, "completion": 1, "cached": 0, "estimated_prompt": 0, "estimated_completion": 0},
        "queue": {
            "requests": 0, "limit": 1000, "bytes": 0, "bytes_limit": 1 << 20, "held": 0, "overdue": 0, "oldest_ms": 0.0,
            "by_priority": dict.fromkeys(("critical", "high", "normal", "low", "background"), 0), "by_tenant": [],
            "by_model": [],
        },
        "embeddings": {
            "requests": 0, "texts": 0, "calls": 0, "texts_per_call": 0.0, "merge_factor": 0.0, "mean_wait_ms": 0.0,
            "shared_texts": 0, "cached_texts": 0, "splits": 0, "retries": 0, "in_flight": 0, "waiting_texts": 0,
            "cache_bytes": 0, "windows": [],
            "rules": {"batching": True, "batch_size": 32, "min_batch_size": 1, "max_wait_ms": 5.0},
        },
        **more,
    }  # fmt: skip
