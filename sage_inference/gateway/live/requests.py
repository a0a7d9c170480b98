"""Requests as rows: what was sent where, why, and how fast it was answered. The rows come from the decision record.

Requests that were refused before an instance was asked are rows, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Any, Protocol, TypeVar

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.instances.prefill_decode import leg_of, original_of, path_of
from sage_inference.telemetry.decisions.document import outcome_of
from sage_inference.telemetry.refusals import Refusal
from sage_inference.types import RequestPriority


class EndedRow(Protocol):
    @property
    def ended_at(self) -> float | None: ...


E = TypeVar("E", bound=EndedRow)


def number_of(ended_at: float) -> int:
    """The number of an attempt that ended then: microseconds of the scheduler's clock, so later ends have higher ones."""
    return int(ended_at * 1e6)


def ended_after(attempts: Iterable[E], after: int, limit: int | None = None) -> list[E]:
    """The attempts that ended after the one with this number, in the order of their ends; at most about ``limit``.

    Attempts that share the number of the last one are all among them, because the next question begins after it.
    """
    earliest = after / 1e6  # most attempts are older, and need no number
    ended = [
        (number_of(at), each) for each in attempts if (at := each.ended_at) is not None and at > earliest
    ]
    found = sorted([pair for pair in ended if pair[0] > after], key=itemgetter(0))
    if limit is not None and len(found) > limit:
        last = found[limit - 1][0] if limit else -1
        found = [pair for pair in found if pair[0] <= last]
    return [attempt for _, attempt in found]


def row(ended: Placement | Refusal, epoch: float) -> dict[str, Any]:
    """One attempt, or one refusal. ``epoch`` is the wall clock's time, in seconds, when the scheduler's clock was 0.

    Times count from the arrival of the request. Facts that are not known (yet) are None.
    """
    return _refusal_row(ended, epoch) if isinstance(ended, Refusal) else _attempt_row(ended, epoch)


def _refusal_row(refusal: Refusal, epoch: float) -> dict[str, Any]:
    """``instance`` is empty, and ``why`` is the reason that the caller got."""
    request = refusal.request
    total_ms = _ms(refusal.arrived, refusal.ended_at)
    return {
        "number": number_of(refusal.ended_at),
        "request_id": refusal.request_id,
        "arrived_ms": round((epoch + refusal.arrived) * 1000),
        "route": refusal.route,
        "model": request.model if request is not None else "",
        "priority": (request.priority if request is not None else RequestPriority.NORMAL).name.lower(),
        "tenant": refusal.key,
        "streams": request is not None and request.streams,
        "leg": None,
        "instance": "",
        "why": refusal.reason,
        "queue_ms": total_ms,
        "ttft_ms": None,
        "total_ms": total_ms,
        "prompt_tokens": request.prompt_tokens if request is not None else 0,
        "completion_tokens": None,
        "cached_tokens": None,
        "tokens_estimated": True,
        "tokens_per_s": None,
        "outcome": "refused",
        "status": refusal.status,
    }


def _attempt_row(attempt: Placement, epoch: float) -> dict[str, Any]:
    request, usage = original_of(attempt.request), attempt.usage
    counted = usage is not None and usage.prompt_tokens > 0
    arrived, answered_at, ended_at = request.arrived, attempt.answered_at, attempt.ended_at
    return {
        "number": None if ended_at is None else number_of(ended_at),
        "request_id": request.caller_request_id or request.request_id,
        "arrived_ms": round((epoch + arrived) * 1000),
        "route": path_of(request.route),
        "model": request.model,
        "priority": request.priority.name.lower(),
        "tenant": request.tenant or request.key,
        "streams": request.streams,
        "leg": leg_of(attempt.request),
        "instance": attempt.decision.target_instance_id,
        "why": attempt.decision.reason,
        "queue_ms": _ms(arrived, attempt.pushed_at),
        "ttft_ms": _ms(arrived, answered_at) if request.streams else None,
        "total_ms": _ms(arrived, ended_at),
        "prompt_tokens": usage.prompt_tokens if usage is not None and counted else request.prompt_tokens,
        "completion_tokens": None if usage is None else usage.completion_tokens,
        "cached_tokens": None if usage is None else usage.cached_tokens,
        "tokens_estimated": not counted,
        "tokens_per_s": tokens_per_s(attempt),
        "outcome": outcome_of(attempt),
        "status": attempt.status or None,
    }


def tokens_per_s(attempt: Placement) -> float | None:
    """The pace of the answer's tokens: after the first one where they were streamed, otherwise from the dispatch on."""
    usage, ended_at = attempt.usage, attempt.ended_at
    if usage is None or ended_at is None or not usage.completion_tokens:
        return None
    tokens, began_at = usage.completion_tokens, attempt.pushed_at
    if attempt.request.streams:
        if attempt.answered_at is None or tokens < 2:
            return None
        tokens, began_at = tokens - 1, attempt.answered_at
    took = ended_at - began_at
    return round(tokens / took, 1) if took > 0 else None


def _ms(start: float, end: float | None) -> float | None:
    return None if end is None else round((end - start) * 1000, 1)
