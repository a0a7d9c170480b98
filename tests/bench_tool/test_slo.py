"""A good answer keeps every limit that was given."""

from __future__ import annotations

import pytest

from sage_inference.bench.errors import OptionError
from sage_inference.bench.slo import SloLimits, parse


def test_limits_are_read_in_any_order_with_or_without_the_unit() -> None:
    assert parse("tpot=50, ttft=500ms") == SloLimits(ttft=500, tpot=50)
    assert parse("e2e=0.5") == SloLimits(e2e=0.5)


def test_without_limits_there_is_no_slo() -> None:
    assert not parse(None)
    assert parse("e2e=1")


@pytest.mark.parametrize(
    "text", ["", "ttft", "ttft=", "ttft=0", "ttft=-1", "ttft=nan", "itl=3", "ttft=1,ttft=2"]
)
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--slo"):
        parse(text)


@pytest.mark.parametrize(
    ("slo", "streamed", "ttft", "tpot", "e2e", "met"),
    [
        (SloLimits(ttft=100), True, 0.1, None, 9.0, True),
        (SloLimits(ttft=100), True, 0.101, None, 0.1, False),
        (SloLimits(ttft=100), True, None, None, 0.1, False),
        (SloLimits(ttft=100), False, None, None, 0.1, True),
        (SloLimits(tpot=10), True, 0.1, 0.02, 0.1, False),
        (SloLimits(tpot=10), True, 0.1, None, 0.1, True),
        (SloLimits(e2e=10), False, None, None, 0.02, False),
        (SloLimits(ttft=100, e2e=10), True, 0.001, None, 0.02, False),
    ],
)
def test_which_answers_are_good(
    slo: SloLimits, streamed: bool, ttft: float | None, tpot: float | None, e2e: float, met: bool
) -> None:
    assert slo.met(streamed=streamed, ttft_s=ttft, tpot_s=tpot, e2e_s=e2e) is met
