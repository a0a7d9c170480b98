"""Policies that keep related requests together: prompts with one beginning, or requests of one session."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sage_inference.control_plane.policies.base import Loads, one_by_one
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest

MATCH = 0.3  # of the prompt cached is worth following
AHEAD, TIMES = 32, 2.0  # requests and ratio by which the fullest may lead before balance goes first


class PrefixAware:
    """Place where the longest part of the prompt is cached, unless the loads have drifted apart.

    As SGLang's router does. While the fullest instance leads the emptiest by 32 requests and twofold, the fewest in flight
    win. Otherwise the longest match wins if it is worth following, and the fewest in flight if it is not.
    """

    name = "prefix_aware"
    order = "fifo"
    sticky = True

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        return one_by_one(requests, Loads(instances), self._longest, "longest cached prefix")

    def _longest(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads
    ) -> ExecutionInstance:
        least = min(map(loads.of, room))
        most = max(map(loads.of, room))
        cached = request.cached_tokens
        if cached and not (most - least > AHEAD and most > TIMES * least):
            best = max(room, key=lambda i: cached.get(i, 0))
            if cached.get(best, 0) >= MATCH * request.prompt_tokens:
                return best
        return min(room, key=loads.of)


class Session:
    """All requests of a session on one instance; rendezvous hashing moves few when instances come or go.

    A session is the header ``x-sage-session``, otherwise the body's ``user``. Without either the fewest in flight win.
    """

    name = "session"
    order = "fifo"
    sticky = False

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        # Ranked among all, full or not: a session must not wander because its instance is full for once.
        return one_by_one(requests, Loads(instances), self._own, "session's own")

    def _own(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads
    ) -> ExecutionInstance:
        session = request.session
        if not session:
            return min(room, key=loads.of)
        return max(room, key=lambda i: _rank(session, i.instance_id))


def _rank(session: str, instance: str) -> bytes:
    """Highest wins (Thaler and Ravishankar, "Name-Based Mappings for Increasing Hit Rates", 1998)."""
    return hashlib.blake2b(f"{session}\0{instance}".encode(), digest_size=8).digest()
