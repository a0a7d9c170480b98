"""``python -m tests.bench record``: what keeping the decision record costs a request."""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable

from sage_inference.control_plane.load import Placement
from sage_inference.gateway.watching import Watcher
from sage_inference.types import ExecutionInstance, RequestMetadata, RequestType, SchedulingDecision, Usage
from tests.bench.decide import Ticket

HELP = "microseconds a request that the decision record costs"
_NUMBER, _REPEAT = 20_000, 9


def configure(parser: argparse.ArgumentParser) -> None:
    """It takes no arguments."""


def run(arguments: argparse.Namespace) -> int:
    for instances in (1, 4, 16):
        placed, ended = cost_us(instances)
        print(
            f"{instances} instances: noted {placed:.2f} µs, closed {ended:.2f} µs, together {placed + ended:.2f} µs"
        )
    return 0


def cost_us(instances: int) -> tuple[float, float]:
    """Best of several repetitions: what noting a decision takes, and closing it."""
    group = tuple(ExecutionInstance(f"i{number}", "127.0.0.1", 1) for number in range(instances))
    ticket = Ticket(RequestMetadata("r", RequestType.LLM_CHAT, "m"))
    decision, usage = SchedulingDecision("r", "i0", "cheapest"), Usage(200, 20)
    watcher = Watcher()
    placement = Placement(group[0], 1, 0.0)
    placement.record = watcher.placed(ticket, decision, group, 0.0)
    return (
        _best_us(lambda: watcher.placed(ticket, decision, group, 0.0)),
        _best_us(lambda: watcher.ended(ticket, placement, usage, 1.0)),
    )


def _best_us(call: Callable[[], object]) -> float:
    return min(timeit.repeat(call, number=_NUMBER, repeat=_REPEAT)) / _NUMBER * 1e6
