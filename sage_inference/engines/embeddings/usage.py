"""The cost of each text of a call, where the engine reports only the sum."""

from __future__ import annotations

from collections.abc import Sequence


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """``total`` divided by weight into whole numbers whose sum it is (largest remainder method)."""
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    parts = [total * weight // whole for weight in weights]
    left = total - sum(parts)
    if left:
        by_remainder = sorted(range(len(weights)), key=lambda i: -(total * weights[i] % whole))
        for i in by_remainder[:left]:
            parts[i] += 1
    return parts
