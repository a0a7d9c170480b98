"""Compares what callers were given with what engines answered, and with what they answer when asked directly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

from tests.bench.fidelity.callers import Given
from tests.bench.fidelity.wire import Call, Meaning, alone, meanings, vectors

_JSON = {"content-type": "application/json"}


@dataclass
class Delivered:
    """Vectors that callers got, against those that engines gave for the same text under the same options."""

    vectors: int = 0
    swapped: int = 0  # another text's
    altered: int = 0  # nobody's
    alike: int = (
        0  # different texts of which a swap could not be seen, since the engine gave them the same vector
    )


@dataclass
class Direct:
    """The calls of the gateway made once more, straight to their engine, one at a time."""

    calls: int = 0
    vectors: int = 0
    differ: int = 0  # in any bit
    worst: float = 0.0  # relative, of a vector that differs
    shapes: set[int] = field(default_factory=set)  # texts a call


@dataclass
class Alone:
    """Delivered vectors against those of calls with one text. ``worst``: length of the difference, relative."""

    texts: int = 0
    equal: int = 0  # bitwise
    worst: float = 0.0


def delivered(calls: Iterable[Call], given: Iterable[Given]) -> Delivered:
    of_text: dict[Meaning, set[bytes]] = {}
    owners: dict[bytes, set[Meaning]] = {}
    for call in calls:
        if call.answered:
            for meaning, vector in zip(meanings(call.path, call.body), vectors(call.answer), strict=True):
                of_text.setdefault(meaning, set()).add(vector)
                owners.setdefault(vector, set()).add(meaning)
    texts = ({owner.item for owner in some} for some in owners.values())
    found = Delivered(alike=sum(len(some) for some in texts if len(some) > 1))
    for one in given:
        for meaning, vector in zip(meanings(one.path, one.body), vectors(one.answer), strict=True):
            found.vectors += 1
            if vector not in of_text.get(meaning, ()):
                found.swapped += vector in owners
                found.altered += vector not in owners
    return found


def direct(calls: Iterable[Call]) -> Direct:
    found = Direct()
    with httpx.Client(trust_env=False, verify=False, timeout=60, headers=_JSON) as http:
        for call in calls:
            if not call.answered:
                continue
            then, now = vectors(call.answer), _asked(http, call.engine, call.path, call.body)
            found.calls += 1
            found.vectors += len(then)
            found.shapes.add(len(then))
            for one, other in zip(then, now, strict=True):
                if one != other:
                    found.differ += 1
                    found.worst = max(found.worst, distance(one, other))
    return found


def one_by_one(engine: str, given: Sequence[Given]) -> Alone:
    """Each text once, whoever asked for it."""
    found = Alone()
    known: set[tuple[Meaning, bytes]] = set()
    references: dict[Meaning, bytes] = {}
    with httpx.Client(trust_env=False, verify=False, timeout=60, headers=_JSON) as http:
        for one in given:
            for meaning, vector in zip(meanings(one.path, one.body), vectors(one.answer), strict=True):
                if (meaning, vector) in known:
                    continue
                known.add((meaning, vector))
                if meaning not in references:
                    (references[meaning],) = _asked(
                        http, engine, one.path, alone(one.path, one.body, meaning.item)
                    )
                found.texts += 1
                found.equal += vector == references[meaning]
                found.worst = max(found.worst, distance(vector, references[meaning]))
    return found


def distance(one: bytes, other: bytes) -> float:
    """Of two vectors, relative to the second's length; infinite where they have not as many numbers."""
    if len(one) != len(other):
        return float("inf")
    left, right = (np.frombuffer(vector, dtype="<f4").astype(np.float64) for vector in (one, other))
    return float(np.linalg.norm(left - right) / np.linalg.norm(right))


def _asked(http: httpx.Client, engine: str, path: str, body: bytes) -> list[bytes]:
    return vectors(http.post(engine + path, content=body).raise_for_status().content)
