"""Policies on real sockets keep the order that they have in replay."""

from __future__ import annotations

from tests.bench.traces.live import live


def test_hybrid_answers_sooner_than_round_robin_and_least_loaded() -> None:
    found = {each.policy: each for each in live(("round_robin", "least_loaded", "hybrid"), seconds=7)}
    assert {name: each.failed for name, each in found.items()} == dict.fromkeys(found, 0)
    others = min(found["round_robin"].ttft_p50_ms, found["least_loaded"].ttft_p50_ms)
    assert found["hybrid"].ttft_p50_ms < 0.7 * others
