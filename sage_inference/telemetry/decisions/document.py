"""Attempts as documents: the predicted cost of each candidate, the choice, and the outcome."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from sage_inference.control_plane.cost import (
    backlog_ms,
    cost_ms,
    even_paces,
    expected_ms,
    prefill_ms,
    uncached,
)
from sage_inference.control_plane.instances.load import Placement, Seen, in_one_piece
from sage_inference.control_plane.instances.prefill_decode import leg_of, original_of, path_of
from sage_inference.control_plane.slo import slo_of
from sage_inference.types import ExecutionInstance, SchedulingRequest

Candidate = dict[str, Any]


def document(attempt: Placement, epoch: float, policy: str | None = None) -> dict[str, Any]:
    """All facts of an attempt, in JSON's types; None for a fact that is not known.

    ``epoch`` is the wall clock's time, in seconds, when the scheduler's clock was 0. ``prompt_tokens`` are the
    engine's where it reported them, otherwise the estimate of the decision. Of text ``in_one_piece`` the first byte comes
    with the last, and ``predicted_first_byte_ms`` is that of the whole answer. ``policy`` placed the request.
    ``connection`` is the same number for all requests on one connection of a caller.
    """
    request, usage = original_of(attempt.request), attempt.usage
    told = usage is not None and usage.prompt_tokens > 0
    candidates = _candidates(attempt)
    chosen = _chosen(candidates)
    return {
        "request_id": request.request_id,
        "caller_request_id": request.caller_request_id or None,
        "request_type": request.request_type.value,
        "route": path_of(request.route),
        "model": request.model,
        "priority": int(request.priority),
        "tenant": request.tenant,
        "key": request.tenant or request.key,
        "deadline_ms": request.slo_deadline_ms,
        "slo": _slo(attempt.request),
        "streams": request.streams,
        "choices": request.choices,
        "connection": request.connection or None,
        "leg": leg_of(attempt.request),
        "arrived_ms": round((epoch + request.arrived) * 1000, 3),
        "waited_ms": _ms(request.arrived, attempt.pushed_at),
        "instance": attempt.decision.target_instance_id,
        "engine": _engine(attempt.instance),
        "policy": policy,
        "reason": attempt.decision.reason,
        "candidates": candidates,
        "in_one_piece": in_one_piece(attempt.request),
        "predicted_prompt_ms": _prompt_ms(chosen),
        "predicted_first_byte_ms": _first_byte_ms(attempt, chosen),
        "first_byte_ms": _ms(attempt.pushed_at, attempt.answered_at),
        "duration_ms": _ms(attempt.pushed_at, attempt.ended_at),
        "outcome": outcome_of(attempt),
        "status": attempt.status or None,
        "prompt_tokens": usage.prompt_tokens if usage is not None and told else request.prompt_tokens,
        "prompt_tokens_estimated": not told,
        "completion_tokens": usage.completion_tokens if usage is not None else None,
        "cached_tokens": usage.cached_tokens if usage is not None else None,
        "blocks": list(request.prompt_blocks),
        "block_tokens": round(request.block_tokens, 3),
    }


def _engine(instance: ExecutionInstance) -> dict[str, Any]:
    """The limits of the chosen instance. ``window_tokens`` is None if requests do not wait in the gateway."""
    window = instance.load.window_tokens
    return {
        "kv_tokens": instance.kv_tokens,
        "window_tokens": round(window) if window < math.inf else None,
        "max_concurrent_requests": instance.max_concurrent_requests or None,
        "gpu": instance.gpu,
    }


def _slo(request: SchedulingRequest) -> dict[str, Any]:
    """The target, and its origin: ``caller``, a setting's path, or ``default`` and why. See ``types.Slo``."""
    slo = slo_of(request)
    deadline_ms = request.slo_deadline_ms
    return {
        "ttft_ms": slo.ttft_ms if deadline_ms is None else deadline_ms,
        "ttft_from": slo.ttft_from if deadline_ms is None else "caller",
        "ttft_times": slo.ttft_times if deadline_ms is None else 1.0,
        "tpot_ms": slo.tpot_ms,
        "tpot_from": slo.tpot_from,
    }


def _chosen(candidates: Iterable[Candidate]) -> Candidate | None:
    return next((each for each in candidates if each["chosen"]), None)


def _prompt_ms(chosen: Candidate | None) -> float | None:
    return None if chosen is None else round(chosen["backlog_ms"] + chosen["prompt_ms"], 3)


def _first_byte_ms(attempt: Placement, chosen: Candidate | None) -> float | None:
    """The prediction. A stream's first byte comes after the prefill. Text in one piece comes when all tokens are made.

    None where it is not known how many these are, or what one takes.
    """
    prompt_ms = _prompt_ms(chosen)
    if chosen is None or prompt_ms is None:
        return None
    if not in_one_piece(attempt.request):
        first_ms: float = chosen["first_byte_ms"]
        return first_ms
    usage = attempt.usage
    if usage is None or not usage.completion_tokens or not attempt.answers or not attempt.token_ms:
        return None
    return round(prompt_ms + usage.completion_tokens / attempt.answers * attempt.token_ms, 3)


def outcome_of(attempt: Placement) -> str | None:
    """The outcome. An answered attempt is no retry: its request went on with the next leg, or call."""
    if attempt.outcome == "retried" and attempt.answered_at is not None:
        if leg_of(attempt.request) == "prefill":
            return "prefilled"
        if attempt.status == 200:
            return "done"
    return attempt.outcome


def _candidates(attempt: Placement) -> list[dict[str, Any]]:
    """The candidates, with the policy's paces. Instances that the policy could not choose have none of these."""
    reckoned = attempt.decision.paces or {}
    paces = even_paces([own for _, _, _, _, own, _ in attempt.seen])
    return [
        _candidate(attempt, seen, reckoned.get(seen[0], pace))
        for seen, pace in zip(attempt.seen, paces, strict=True)
    ]


def _candidate(attempt: Placement, seen: Seen, pace: float) -> dict[str, Any]:
    """The cost of the request on one instance: ``cost_ms`` adds up backlog, prompt and running requests."""
    instance, running, pending, progress_at, own, alone = seen
    request = attempt.request
    cached, left = request.cached_tokens.get(instance, 0), uncached(request, instance)
    backlog = backlog_ms(pace, pending, attempt.pushed_at - progress_at)
    return {
        "instance": instance.instance_id,
        "chosen": instance.instance_id == attempt.decision.target_instance_id,
        "cost_ms": round(cost_ms(pace, backlog, left, running), 3),
        "backlog_ms": round(backlog, 3),
        "prompt_ms": round(prefill_ms(pace, left), 3),
        "first_byte_ms": round(expected_ms(pace, backlog, left, alone), 3),
        "cached_tokens": cached,
        "running": running,
        "pending_tokens": pending,
        "ms_per_token": round(own, 5),
    }


def predicted(attempt: Placement) -> tuple[float | None, float | None]:
    """The predicted cost of the chosen instance, and the time to the first byte of the answer, in milliseconds."""
    chosen = _chosen(_candidates(attempt))
    return (None if chosen is None else chosen["cost_ms"]), _first_byte_ms(attempt, chosen)


def explain_line(attempt: Placement) -> str:
    """One line: the choice, its reason, and each candidate's predicted cost."""
    shown = ", ".join(f"{each['instance']} {each['cost_ms']:.0f} ms" for each in _candidates(attempt))
    return f"{attempt.decision.target_instance_id}: {attempt.decision.reason}; predicted: {shown}"


def _ms(start: float, end: float | None) -> float | None:
    return None if end is None else round((end - start) * 1000, 3)
