"""The tokens of each text of a call, where the engine reports only the sum."""

from __future__ import annotations

from collections.abc import Sequence


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Divide ``total`` by weight into integers with that sum (largest remainder method)."""
    sum_of_weights = sum(weights)
    if not sum_of_weights:
        weights, sum_of_weights = [1] * len(weights), len(weights)
    parts = [total * weight // sum_of_weights for weight in weights]
    left = total - sum(parts)
    if left:
        by_remainder = sorted(range(len(weights)), key=lambda i: -(total * weights[i] % sum_of_weights))
        for i in by_remainder[:left]:
            parts[i] += 1
    return parts
