"""Prompts that grow with each turn, and caches that are empty at first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from sage_inference.replay.fleet import ModelledFleet
from tests.bench.traces import workloads
from tests.bench.traces.contest import Result, longest_s, play, points, share


class _Fleet(TypedDict):
    instances: int
    prepare: Callable[[ModelledFleet], None]


def growing_chats(part: float) -> Result:
    """20 conversations a second, of 8 turns: more than goes without keeping each where it began."""
    jobs = workloads.growing_chats(120 * part, 20)
    result = Result("growing chats")
    base = result.add("least_loaded, at once", play("least_loaded", jobs, at_once=True))
    ours = result.add("hybrid", play("hybrid", jobs))
    result.at_least("hybrid goodput, %", 100 * ours.goodput, 99)
    result.at_most("hybrid TTFT p99 / least_loaded at once", share(ours.ttft_ms.p99, base.ttft_ms.p99), 0.5)
    result.beside_others(ours, jobs)
    return result


def agent_loops(part: float) -> Result:
    """Agents at a load that the engines take while each stays where it began, and at more."""
    result = Result("agent loops")
    for per_s in (1.0, 1.5):
        at = f"{per_s} a second"
        jobs = workloads.agent_loops(120 * part, per_s)
        base = result.add("least_loaded, at once", play("least_loaded", jobs, at_once=True), at=at)
        pushed = result.add("hybrid, at once", play("hybrid", jobs, at_once=True), at=at)
        ours = result.add("hybrid", play("hybrid", jobs), at=at)
        result.at_least(f"{at}: hybrid goodput over least_loaded at once, points", points(ours, base), 25)
        result.at_least(f"{at}: hybrid goodput over hybrid at once, points", points(ours, pushed), -0.5)
        result.beside_others(ours, jobs, at=at)
    return result


def cold_start(part: float) -> Result:
    """100 tenants with 12,288-token prefixes, at half of what the engines take once these are cached."""
    jobs = workloads.prefix_tenants(60 * part, 32, 100, 24)
    result = Result("cold start")
    at_once = play("least_loaded", jobs, at_once=True)
    base = result.add("least_loaded, at once", at_once, _longest(longest_s(at_once)))
    pushed = play("hybrid", jobs, at_once=True)
    result.add("hybrid, at once", pushed, _longest(longest_s(pushed)))
    outcomes = play("hybrid", jobs)
    ours = result.add("hybrid", outcomes, _longest(longest_s(outcomes)))
    result.at_least("hybrid goodput over least_loaded at once, points", points(ours, base), 40)
    for way, others in (("least_loaded", at_once), ("hybrid", pushed)):
        result.at_most(f"hybrid's longest wait / {way} at once", longest_s(outcomes) / longest_s(others), 2)
    result.beside_others(ours, jobs)
    return result


def cold_crowd(part: float) -> Result:
    """Tenants with prefixes of 6,144 tokens come for the first time, and then more than the engines take in time.

    200 tenants before two engines that take 1.4 times as long, and 400 before four usual ones.
    """
    result = Result("cold crowd over capacity")
    for tenants, per_s, instances, slower in ((200, 15, 2, 1.4), (400, 60, 4, 1.0)):

        def prepare(fleet: ModelledFleet, slower: float = slower) -> None:
            for gpu in fleet.gpus:
                gpu.slow_down(slower)

        jobs = workloads.prefix_tenants(60 * part, per_s, tenants)
        at, how = f"{tenants} tenants", _Fleet(instances=instances, prepare=prepare)
        at_once = play("least_loaded", jobs, at_once=True, **how)
        base = result.add("least_loaded, at once", at_once, _longest(longest_s(at_once)), at)
        pushed = play("hybrid", jobs, at_once=True, **how)
        once = result.add("hybrid, at once", pushed, _longest(longest_s(pushed)), at)
        outcomes = play("hybrid", jobs, **how)
        ours = result.add("hybrid", outcomes, _longest(longest_s(outcomes)), at)
        result.at_least(f"{at}: hybrid goodput over least_loaded at once, points", points(ours, base), 40)
        result.at_least(f"{at}: hybrid goodput over hybrid at once, points", points(ours, once), -0.5)
        result.at_most(
            f"{at}: hybrid's longest wait / hybrid at once", longest_s(outcomes) / longest_s(pushed), 3
        )
        result.beside_others(ours, jobs, at=at, **how)
    return result


def _longest(seconds: float) -> str:
    return f"longest {seconds:.1f} s"
