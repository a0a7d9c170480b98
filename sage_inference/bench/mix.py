"""The kinds of requests that are sent, and their weights."""

from __future__ import annotations

from sage_inference.bench.errors import OptionError
from sage_inference.bench.exchange import Kind

KINDS = tuple(kind.value for kind in Kind)
MIXED = "mixed"

Mix = dict[Kind, float]


def parse(text: str, option: str = "--kind") -> Mix:
    """The mix in ``stream``, ``mixed`` (a third each) or weights such as ``stream=8,embeddings=2``.

    Raises ``OptionError``.
    """
    if text.strip() == MIXED:
        return dict.fromkeys(Kind, 1.0)
    mix: Mix = {}
    for part in text.split(","):
        name, given, weight = (word.strip() for word in part.partition("="))
        try:
            value = float(weight) if given else 1.0
        except ValueError:
            value = 0.0
        if name not in KINDS or Kind(name) in mix or not 0 < value < 1e6:
            wanted = f"one of {', '.join(KINDS)}, {MIXED}, or weights such as stream=8,embeddings=2"
            raise OptionError(option, text, wanted)
        mix[Kind(name)] = value
    return mix
