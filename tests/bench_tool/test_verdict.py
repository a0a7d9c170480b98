"""When the generator has to say that it was the bottleneck."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from sage_inference.bench.report import Ceiling, Figures, Own
from sage_inference.bench.samples import summary
from sage_inference.bench.slo import SloLimits
from sage_inference.bench.tally import Tally
from sage_inference.bench.verdict import reasons
from sage_inference.bench.window import Window

EMPTY = Figures.of(Tally(), Window(0, 1), SloLimits())
FIGURES = replace(EMPTY, requests_per_s=1000.0, chunks_per_s=9000.0, e2e=summary(array("d", [0.01] * 99)))
OWN = Own(cpu=0.5, lag=None, late=None, waited=0, connections=9, ceiling=Ceiling(64, 20_000, 90_000, 1.0))
EARLY, LATE = summary(array("d", [0.0001] * 99)), summary(array("d", [0.0001] * 97 + [0.003] * 2))


def test_with_room_to_spare_the_server_was_measured() -> None:
    assert reasons(FIGURES, replace(OWN, lag=EARLY, late=EARLY)) == ()


@pytest.mark.parametrize(
    ("figures", "own", "says"),
    [
        (FIGURES, replace(OWN, cpu=0.93), "it used 93% of a core"),
        (
            replace(FIGURES, requests_per_s=17_000.0),
            OWN,
            "17,000 requests/s are near the most that it can, 20,000",
        ),
        (
            replace(FIGURES, chunks_per_s=80_000.0),
            OWN,
            "80,000 chunks/s are near the most that it can, 90,000",
        ),
        (FIGURES, replace(OWN, waited=3), "3 requests waited for one of its 9 connections"),
        (FIGURES, replace(OWN, late=LATE), "it sent 1 % of the requests more than 3.0 ms late"),
        (FIGURES, replace(OWN, lag=LATE), "it saw 1 % of the moments more than 3.0 ms late"),
    ],
    ids=["cpu", "requests", "chunks", "connections", "late", "lag"],
)
def test_each_reason_by_itself(figures: Figures, own: Own, says: str) -> None:
    assert reasons(figures, own) == (says,)


def test_a_delay_that_slow_answers_hide_is_none() -> None:
    slow = replace(FIGURES, e2e=summary(array("d", [4.0])))
    assert reasons(slow, replace(OWN, late=LATE, lag=LATE)) == ()


def test_without_a_ceiling_nothing_is_near_it() -> None:
    assert reasons(replace(FIGURES, requests_per_s=1e9), replace(OWN, ceiling=None)) == ()
