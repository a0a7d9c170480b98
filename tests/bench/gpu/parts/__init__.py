"""The parts of a run, each with what it needs, its defaults, and its table."""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench.gpu.parts import (
    closed,
    embeddings,
    functions,
    kill,
    mixed,
    overhead,
    pairs,
    policies,
    replayed,
    sleep,
    start,
    structured,
)
from tests.bench.gpu.parts.base import Part

PARTS: Mapping[str, Part] = {
    part.name: part
    for part in (
        start.PART,
        functions.PART,
        overhead.PART,
        closed.PART,
        embeddings.PART,
        mixed.PART,
        policies.PART,
        kill.PART,
        sleep.PART,
        structured.PART,
        pairs.PART,
        replayed.PART,
    )
}
