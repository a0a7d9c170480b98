"""The service level objective (SLO) of a request: the time to its first token and the time of each token after it.

A request carries the ``Slo`` of its model and priority, see ``slo_table``. The deadline of its caller replaces the time to
the first token.
"""

from __future__ import annotations

from sage_inference.types import RequestPriority, SchedulingRequest, Slo

TTFT_MS = 1000.0
TPOT_MS = 50.0
BATCH = 30.0  # times the time to the first token, below normal priority


def milliseconds(ms: float) -> str:
    """The time as errors state it, with three digits below 100 ms: a deadline may be a fraction of a millisecond."""
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.3g} ms"


def patience(priority: RequestPriority) -> float:
    """The factor by which a request of this priority may wait longer for its first token than a normal one."""
    return BATCH if priority > RequestPriority.NORMAL else 1.0


DEFAULT = tuple(
    Slo(TTFT_MS * patience(priority), TPOT_MS, ttft_times=patience(priority)) for priority in RequestPriority
)


def slo_of(request: SchedulingRequest) -> Slo:
    """The operator's SLO for the request. A deadline from its caller is not part of it."""
    return request.slo or DEFAULT[request.priority]


def ttft_s(request: SchedulingRequest) -> float:
    """Seconds from arrival to first byte: the deadline of the caller, otherwise the operator's SLO."""
    deadline_ms = request.slo_deadline_ms
    if deadline_ms is not None:
        return deadline_ms / 1000
    return slo_of(request).ttft_ms / 1000
