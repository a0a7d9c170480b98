"""Two bad answers from the only engine, then a good request: does it get through?"""

from __future__ import annotations

from tests.bench.bench import Bench
from tests.bench.mock.orders import Orders
from tests.bench.process import status_of
from tests.bench.scenarios.base import Column, Figures, Scenario
from tests.bench.targets.base import MODELS, Target

_FAULTS = {"after_503": Orders(status=503), "after_reset": Orders(reset=1)}


def measure(bench: Bench, target: Target, seconds: float) -> Figures:
    """Each kind of bad answer to a gateway just started, or one would spoil the next."""
    figures: Figures = {}
    for name, bad in _FAULTS.items():
        with bench.fresh(target.name, ("stream",)) as fresh:
            url = f"{fresh.urls['stream']}/v1/chat/completions"
            for _ in range(2):
                status_of(url, bad.body(MODELS["stream"]))
            figures[name] = status_of(url, Orders(chunks=2).body(MODELS["stream"]))
    return figures


BAD_ANSWERS = Scenario(
    "bad-answers",
    "two bad answers from the only engine, then a good request: its status",
    "stream",
    (Column("after_503", "after two 503"), Column("after_reset", "after two resets")),
    measure,
    who="gateways",
    once=True,
)
