"""One small class a scheduling policy."""

from __future__ import annotations

from collections.abc import Callable

from sage_inference.control_plane.policies.base import SchedulingPolicy
from sage_inference.control_plane.policies.least_loaded import LeastLoaded
from sage_inference.control_plane.policies.simple import PowerOfTwo, Random, RoundRobin

POLICIES: dict[str, Callable[[], SchedulingPolicy]] = {
    LeastLoaded.name: LeastLoaded,
    RoundRobin.name: RoundRobin,
    Random.name: Random,
    PowerOfTwo.name: PowerOfTwo,
}

__all__ = ["POLICIES", "LeastLoaded", "PowerOfTwo", "Random", "RoundRobin", "SchedulingPolicy"]
