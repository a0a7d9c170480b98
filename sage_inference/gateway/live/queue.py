"""The requests that wait for a slot, counted by priority, tenant and model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.submission import Waiting
from sage_inference.types import RequestPriority

MOST_NAMES = 20  # tenants and models that are counted by name, those with most requests first


def queue_document(
    waiting: Sequence[Waiting], size: int, limits: LimitSettings, held: int, now: float
) -> dict[str, Any]:
    """``size`` are the bytes of the queue. ``held`` requests wait for an engine to start, and are not in the queue."""
    priorities = Counter(int(each.request.priority) for each in waiting)
    return {
        "requests": len(waiting),
        "limit": limits.queue_requests,
        "bytes": size,
        "bytes_limit": limits.queue_bytes,
        "held": held,
        "overdue": sum(each.overdue for each in waiting),
        "oldest_ms": round(max([(now - each.arrived) * 1000 for each in waiting], default=0.0), 1),
        "by_priority": {priority.name.lower(): priorities[int(priority)] for priority in RequestPriority},
        "by_tenant": _largest("tenant", Counter(each.request.tenant for each in waiting)),
        "by_model": _largest("model", Counter(each.request.model for each in waiting)),
    }


def by_instance(waiting: Iterable[Waiting]) -> Counter[str]:
    """The waiting requests that each instance may serve. A request counts for each instance of its group."""
    groups = Counter(each.group for each in waiting)
    counted: Counter[str] = Counter()
    for group, requests in groups.items():
        for instance in group:
            counted[instance.instance_id] += requests
    return counted


def _largest(key: str, counted: Counter[str]) -> list[dict[str, Any]]:
    return [{key: name, "requests": requests} for name, requests in counted.most_common(MOST_NAMES)]
