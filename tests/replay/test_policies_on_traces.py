"""What the policies are worth, on a part of each case of ``python -m tests.bench traces``."""

from __future__ import annotations

import pytest

from tests.bench.traces.cases import CASES


@pytest.mark.parametrize("name", CASES)
def test_hybrid_keeps_its_bounds_against_its_baselines(name: str) -> None:
    case, part = CASES[name]
    result = case(part)
    missed = [f"{bound.what}: {bound.value:.3g}" for bound in result.bounds if not bound.held]
    assert result.bounds
    assert not missed
