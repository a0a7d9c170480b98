"""One small class a scheduling policy."""

from __future__ import annotations

import time
from collections.abc import Callable

from sage_inference.control_plane.policies.affinity import PrefixAware, Session
from sage_inference.control_plane.policies.base import Clock, PlacementPolicy
from sage_inference.control_plane.policies.divided import DividedHybrid
from sage_inference.control_plane.policies.hybrid import Hybrid
from sage_inference.control_plane.policies.least_loaded import LeastLoaded
from sage_inference.control_plane.policies.ordered import FIFO, Priority
from sage_inference.control_plane.policies.predicted import Adaptive, CostOptimized, SLOAware
from sage_inference.control_plane.policies.simple import PowerOfTwo, Random, RoundRobin
from sage_inference.control_plane.queue.orders import ORDERS

_TIMED: dict[str, Callable[[Clock], PlacementPolicy]] = {
    each.name: each for each in (Hybrid, SLOAware, CostOptimized, Adaptive)
}
_TIMELESS: dict[str, Callable[[], PlacementPolicy]] = {
    each.name: each
    for each in (LeastLoaded, RoundRobin, Random, PowerOfTwo, PrefixAware, Session, FIFO, Priority)
}
POLICIES = ("hybrid", *(name for name in (*_TIMELESS, *_TIMED) if name != "hybrid"))


def policy_named(name: str, clock: Clock = time.monotonic) -> PlacementPolicy:
    """A new policy object. Raises ``KeyError`` for a name that is not in ``POLICIES``."""
    timeless = _TIMELESS.get(name)
    return timeless() if timeless else _TIMED[name](clock)


def hybrid_with(llm_fallback: str, clock: Clock = time.monotonic) -> PlacementPolicy:
    """``hybrid`` whose requests wait in the order of that name; if it names none, that policy places generation.

    Raises ``KeyError`` for a name that is not in ``POLICIES``.
    """
    if llm_fallback in ORDERS:
        return Hybrid(clock, llm_fallback)
    llm = policy_named(llm_fallback, clock)
    return llm if isinstance(llm, Hybrid) else DividedHybrid(llm, clock)


__all__ = [
    "FIFO",
    "POLICIES",
    "Adaptive",
    "CostOptimized",
    "Hybrid",
    "LeastLoaded",
    "PlacementPolicy",
    "PowerOfTwo",
    "PrefixAware",
    "Priority",
    "Random",
    "RoundRobin",
    "SLOAware",
    "Session",
    "hybrid_with",
    "policy_named",
]
