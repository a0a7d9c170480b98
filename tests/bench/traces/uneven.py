"""Engines that are not as the others, or not as fast as the targets assume."""

from __future__ import annotations

import random

from sage_inference.control_plane.policies import POLICIES, PowerOfTwo, Random, policy_named
from sage_inference.replay.fleet import ModelledFleet
from sage_inference.replay.jobs import Job
from sage_inference.replay.run import TOO_LONG, Run
from tests.bench.traces import workloads
from tests.bench.traces.contest import Result, play, share, waits_ms

DOCUMENT = 8000  # tokens, at least
DRAWN = {each.name: each for each in (PowerOfTwo, Random)}  # seeded, so that equal runs have equal figures
CONTEXTS = 4096, 4096, 32_768, 32_768


def one_piece(part: float) -> Result:
    """Chats whose answers come in one piece, where two of four engines take three times as long."""

    def prepare(fleet: ModelledFleet) -> None:
        for gpu in fleet.gpus[:2]:
            gpu.slow_down(3)

    result = Result("two of four engines 3 x slower")
    for streams, at in ((True, "streamed"), (False, "in one piece")):
        jobs = workloads.chats(60 * part, 53, streams=streams)
        result.add("least_loaded, at once", play("least_loaded", jobs, at_once=True, prepare=prepare), at=at)
        ours = result.add("hybrid", play("hybrid", jobs, prepare=prepare), at=at)
        result.at_least(f"{at}: hybrid goodput, %", 100 * ours.goodput, 99)
        result.beside_others(ours, jobs, at=at, prepare=prepare)
    return result


def slow_engines(part: float) -> Result:
    """Chats and documents before engines that take five times as long, and so have five times as long for each."""

    def prepare(fleet: ModelledFleet) -> None:
        for gpu in fleet.gpus:
            gpu.slow_down(5)

    jobs = workloads.documents(600 * part, 8, 0.3)
    result = Result("all engines 5 x slower")
    found, worst = {}, {}
    for name, once in (("least_loaded", True), ("hybrid", True), ("hybrid", False)):
        outcomes = play(name, jobs, at_once=once, prepare=prepare)
        way = f"{name}, at once" if once else name
        worst[way] = waits_ms(o for o in outcomes if o.job.prompt >= DOCUMENT).p99
        found[way] = result.add(way, outcomes, f"documents' TTFT p99 {worst[way]:,.0f} ms")
    ours, base = found["hybrid"], found["least_loaded, at once"]
    result.at_most("hybrid TTFT p90 / least_loaded at once", share(ours.ttft_ms.p90, base.ttft_ms.p90), 0.5)
    for other in ("least_loaded, at once", "hybrid, at once"):
        result.at_most(f"documents' TTFT p99 / {other}", share(worst["hybrid"], worst[other]), 1.3)
    result.beside_others(ours, jobs, prepare=prepare)
    return result


def contexts(part: float) -> Result:
    """Engines with contexts of 4,096 and of 32,768 tokens; a third of the requests fit only into the longer ones."""
    jobs = workloads.mixed_lengths(30 * part)
    result = Result("contexts of two lengths")
    avoidable = 0
    for name in POLICIES:
        fleet = ModelledFleet()
        for length in CONTEXTS:
            fleet.add_llm(max_model_len=length)
        drawn = DRAWN.get(name)
        policy = drawn(random.Random(12)) if drawn else policy_named(name, fleet.clock)
        outcomes = Run(policy, fleet).play(jobs)
        refused = [o for o in outcomes if o.refused == TOO_LONG]
        avoidable += sum(_fits(o.job) for o in refused)
        result.add(name, outcomes, f"{len(refused)} too long")
    result.at_most("refusals of what fits, all policies", avoidable, 0)
    return result


def _fits(job: Job) -> bool:
    return job.prompt + job.output <= max(CONTEXTS)
