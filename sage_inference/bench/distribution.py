"""Lengths of prompts and answers, drawn from a distribution that an option names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from sage_inference.bench.errors import OptionError

FORMS = "128, uniform:10-200, normal:200,50, lognormal:200,0.8, exponential:200"


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution of whole numbers of tokens, at least 1.

    ``a`` and ``b`` are, in the order of ``FORMS``: the value; low and high; mean and standard deviation; median and
    sigma (of the logarithm); the mean.
    """

    kind: str
    a: float
    b: float = 0.0

    def draw(self, random: Random) -> int:
        return max(1, round(_DRAW[self.kind](random, self.a, self.b)))


_DRAW: dict[str, Callable[[Random, float, float], float]] = {
    "fixed": lambda _, a, __: a,
    "uniform": lambda random, a, b: random.randint(int(a), int(b)),
    "normal": lambda random, a, b: random.gauss(a, b),
    "lognormal": lambda random, a, b: random.lognormvariate(math.log(a), b),
    "exponential": lambda random, a, _: random.expovariate(1 / a),
}


def parse(text: str, option: str) -> Distribution:
    """The distribution that ``text`` names. Raises ``OptionError``, which names ``option``."""
    kind, colon, rest = text.strip().partition(":")
    try:
        found = _shaped(kind, rest) if colon else Distribution("fixed", int(kind))
    except ValueError:
        found = None
    if found is None:
        raise OptionError(option, text, f"a distribution such as {FORMS}")
    wrong = _nonsense(found)
    if wrong:
        raise OptionError(option, text, f"possible: {wrong}")
    return found


def _shaped(kind: str, rest: str) -> Distribution | None:
    if kind == "uniform":
        low, _, high = rest.partition("-")
        return Distribution(kind, int(low), int(high))
    if kind in ("normal", "lognormal"):
        centre, _, spread = rest.partition(",")
        return Distribution(kind, float(centre), float(spread))
    return Distribution(kind, float(rest)) if kind == "exponential" else None


def _nonsense(one: Distribution) -> str | None:
    if not (math.isfinite(one.a) and math.isfinite(one.b)):
        return "a length is a finite number"
    if one.a < 1:
        return "a length is at least 1 token"
    if one.kind == "uniform" and one.b < one.a:
        return "the higher end is under the lower one"
    if one.b < 0:
        return "a spread is not under 0"
    return "a sigma of the logarithm over 5 has no use" if one.kind == "lognormal" and one.b > 5 else None
