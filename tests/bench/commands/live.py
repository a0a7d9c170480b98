"""``python -m tests.bench live``: policies on real sockets, before four simulated engines."""

from __future__ import annotations

import argparse

from tests.bench.traces.live import live

HELP = "policies on real sockets: one gateway, four simulated engines, the same crowd in turn"
POLICIES = ("round_robin", "least_loaded", "hybrid")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=30.0, help="of each policy; default 30")
    parser.add_argument("--rounds", type=int, default=1, help="default 1")


def run(arguments: argparse.Namespace) -> int:
    """0 when hybrid's median was the least."""
    print("| policy | TTFT p50 ms | p99 ms | failed |\n|---|---|---|---|")
    medians: dict[str, list[float]] = {name: [] for name in POLICIES}
    for each in live(POLICIES * arguments.rounds, arguments.seconds):
        print(
            f"| {each.policy} | {each.ttft_p50_ms:.0f} | {each.ttft_p99_ms:.0f} | {each.failed} |", flush=True
        )
        medians[each.policy].append(each.ttft_p50_ms)
    return 0 if max(medians["hybrid"]) < min(medians["least_loaded"] + medians["round_robin"]) else 1
