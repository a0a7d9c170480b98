"""The hints for the scheduler in a caller's headers: priority, deadline, session, and whether to explain the choice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.types import RequestPriority

_PRIORITIES = {p.name.lower().encode(): p for p in RequestPriority}
_LONGEST_MS = 86_400_000.0
_MOST_SESSION = 200


@dataclass(slots=True)
class SchedulingHints:
    """The hints of one head. If one of them is wrong, ``refusal`` is the answer to each request with this head."""

    priority: RequestPriority | None = None
    deadline_ms: float | None = None
    session: str = ""
    explain: bool = False
    refusal: Rejection | None = None


def asked_of_scheduler(headers: Iterable[tuple[bytes, bytes]]) -> SchedulingHints | None:
    """``x-sage-priority``, ``x-sage-deadline-ms``, ``x-sage-session`` and ``x-sage-why``; None if there are none."""
    asks = None
    for name, value in headers:
        if name.startswith(b"x-sage-"):
            asks = asks or SchedulingHints()
            try:
                _read(asks, name, value)
            except Rejection as refusal:
                asks.refusal = refusal
    return asks


def _read(asks: SchedulingHints, name: bytes, value: bytes) -> None:
    if name == b"x-sage-priority":
        asks.priority = _priority(value)
    elif name == b"x-sage-deadline-ms":
        asks.deadline_ms = _deadline_ms(value)
    elif name == b"x-sage-session":
        asks.session = value[:_MOST_SESSION].decode("latin-1")
    elif name == b"x-sage-why":
        asks.explain = True


def _priority(value: bytes) -> RequestPriority:
    found = _PRIORITIES.get(value.strip().lower())
    if found is None:
        names = ", ".join(p.name.lower() for p in RequestPriority)
        message = f"x-sage-priority is {_shown(value)}; it takes {names}"
        raise Rejection(Reason.BAD_REQUEST, message, "x-sage-priority")
    return found


def _deadline_ms(value: bytes) -> float:
    """Milliseconds from the request's arrival to the first byte of its answer."""
    try:
        ms = float(value)
    except ValueError:
        ms = -1.0
    if not 0 < ms <= _LONGEST_MS:
        message = f"x-sage-deadline-ms is {_shown(value)}; it takes milliseconds, more than 0, at most a day"
        raise Rejection(Reason.BAD_REQUEST, message, "x-sage-deadline-ms")
    return ms


def _shown(value: bytes) -> str:
    return repr(value[:40].decode("latin-1"))
