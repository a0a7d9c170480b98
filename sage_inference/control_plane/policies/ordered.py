"""Policies that are mostly an order of waiting. They place where the fewest requests are in flight."""

from __future__ import annotations

from sage_inference.control_plane.policies.least_loaded import LeastLoaded


class FIFO(LeastLoaded):
    """In order of arrival."""

    name = "fifo"


class Priority(LeastLoaded):
    """By priority; ten seconds of waiting make up for a level."""

    name = "priority"
    order = "priority"
