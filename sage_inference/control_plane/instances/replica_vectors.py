"""Whether the replicas of an embedding model give the same vectors: those of two models must never mix."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEAST_COSINE = 0.9999
PROBE_TEXT = "Vectors of one text must agree, whichever replica is asked: 12 €, äöü, 你好."


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Of two vectors of one length; 0 where one has no direction."""
    norm = math.hypot(*a) * math.hypot(*b)
    return sum(map(float.__mul__, map(float, a), map(float, b))) / norm if norm else 0.0


class VectorAgreement:
    """The vectors of ``PROBE_TEXT`` by model and instance.

    Whoever is looked at must agree with those looked at before it: so a newcomer that differs stays out, and
    one that has drifted is out at its next look.
    """

    def __init__(self) -> None:
        self._vectors: dict[str, dict[str, Sequence[float]]] = {}

    def knows(self, model: str, instance_id: str) -> bool:
        return instance_id in self._vectors.get(model, ())

    def check(self, model: str, instance_id: str, vector: Sequence[float]) -> str | None:
        """How the instance's vector differs from the others'; None: it agrees, and is one of them from now."""
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
