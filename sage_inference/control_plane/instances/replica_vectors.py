"""Whether the replicas of an embedding model return equal vectors: those of two models must never mix."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEAST_COSINE = 0.9999
PROBE_TEXT = "Vectors of one text must agree, whichever replica is asked: 12 €, äöü, 你好."


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """The cosine of two vectors of one length; 0 if one has no direction."""
    norm = math.hypot(*a) * math.hypot(*b)
    return sum(map(float.__mul__, map(float, a), map(float, b))) / norm if norm else 0.0


class VectorAgreement:
    """The vectors of ``PROBE_TEXT`` by model and instance.

    An instance must agree with those that were checked before it. So a new instance that differs stays out, and an
    instance that has drifted is out after its next check.
    """

    def __init__(self) -> None:
        self._vectors: dict[str, dict[str, Sequence[float]]] = {}

    def knows(self, model: str, instance_id: str) -> bool:
        return instance_id in self._vectors.get(model, ())

    def check(self, model: str, instance_id: str, vector: Sequence[float]) -> str | None:
        """The difference from the other instances; None if the vector agrees, and then it is one of them."""
        members = self._vectors.setdefault(model, {})
        members.pop(instance_id, None)
        for other, theirs in members.items():
            if len(theirs) != len(vector):
                return f"has vectors of {len(vector)} dimensions for {model}, {other} of {len(theirs)}"
            agreed = cosine(vector, theirs)
            if not agreed > LEAST_COSINE:
                return f"has other vectors for {model} than {other} (cosine {agreed:.4f}): not the same model"
            break
        members[instance_id] = vector
        return None

    def forget(self, instance_id: str) -> None:
        for members in self._vectors.values():
            members.pop(instance_id, None)
