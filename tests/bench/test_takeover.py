"""A gateway is killed under load, and a second one has the callers: nothing is lost but the streams it was writing."""

from __future__ import annotations

import asyncio

from tests.bench.takeover.scene import rows, takeover


def test_a_standby_takes_over_under_load() -> None:
    found = asyncio.run(takeover(1.5, 30.0, tokens=60, speed=2.0))
    assert [row for row in rows(found) if not row.holds] == []
    assert found.cut, "the streams that the first gateway was writing end with it"
    assert all(one.gateway == 0 and one.due < found.killed for one in found.cut)
    later = found.due(found.killed, float("inf"))
    assert len(later) > 10
    assert {one.gateway for one in later} == {1}
