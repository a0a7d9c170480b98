"""An engine of four goes under load and comes back; the real processes, scaled down."""

from __future__ import annotations

import asyncio

import pytest

from tests.bench.outage.engines import How
from tests.bench.outage.heard import End
from tests.bench.outage.phases import rows
from tests.bench.outage.scene import Shape, outage


@pytest.mark.parametrize("how", [How.KILL, How.DRAIN])
def test_an_engine_that_goes_under_load_harms_only_streams_under_way_and_is_soon_back(how: How) -> None:
    scene = asyncio.run(outage(how, Shape(calm_s=1.0, down_s=2.0, after_s=1.0, per_s=15.0)))
    assert [row for row in rows(how, scene) if not row.holds] == []
    assert bool(scene.which(End.CUT)) is (how is How.KILL)
    assert len(scene.which(End.WHOLE)) > 20
