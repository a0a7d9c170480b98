"""The facts that engines report, as limits of embedding calls and of single texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sage_inference.control_plane.embedding import CallLimits
from sage_inference.engines.detect import Detected
from sage_inference.engines.dialects import Dialect


def limits_of(detected: Detected | None, dialect: Dialect) -> CallLimits:
    """Its limits, until its refusals teach others; None: nothing is known of it yet."""
    facts = dict(detected.limits) if detected is not None else {}
    if detected is not None and "max_input_length" not in facts:
        lengths = [model.max_model_len for model in detected.models if model.max_model_len]
        facts["max_input_length"] = max(lengths, default=0)
    return CallLimits.told(
        facts, size=dialect.payload_bytes, serial=dialect.serial and not facts.get("batches_calls")
    )


class TextLimits(NamedTuple):
    """The limits of the instances that serve a model; None where there is no limit.

    ``size``: bytes of a text as JSON. ``tokens``: those of a text, where none cuts longer ones; ``cuts_after``:
    those after which one silently does.
    """

    size: int | None
    tokens: int | None
    cuts_after: int | None

    @classmethod
    def of(cls, limits: Iterable[CallLimits]) -> TextLimits:
        every = list(limits)
        cutting = [one.text_tokens for one in every if one.truncates]
        return cls(
            size=_most([one.size for one in every]),
            tokens=None if cutting else _most([one.text_tokens for one in every]),
            cuts_after=min(filter(None, cutting), default=None),
        )


def _most(limits: list[int]) -> int | None:
    """The widest, where 0 is none at all."""
    return max(limits) if limits and all(limits) else None
