"""The cases: a workload, the ways it is scheduled, and what the figures must show.

``at once`` is how gateways without late binding do it: a request is sent on when it comes, and waits in an
engine. ``part`` scales a case down; the bounds are those of the whole. Rows of other routers' rules are added on
request, see ``contest.Result``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sage_inference.replay.fleet import ModelledFleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.llm_engine import EngineLimits
from sage_inference.replay.report import Percentiles
from sage_inference.simulator.timing import llm_step_ms
from tests.bench.traces import workloads
from tests.bench.traces.closed_loop import closed_loop
from tests.bench.traces.contest import Result, play, points, share, waits_ms
from tests.bench.traces.conversations import agent_loops, cold_crowd, cold_start, growing_chats
from tests.bench.traces.mixed import mixed
from tests.bench.traces.uneven import contexts, one_piece, slow_engines

DEADLINE_MS = 1000.0
SATURATED_PER_S = 40.0  # requests of one_prefix that an engine can take in time


def mooncake_16(part: float) -> Result:
    """Mooncake conversation at 1.6 times its speed."""
    jobs = workloads.mooncake(1.6, part)
    result = Result("mooncake x1.6")
    at_once = play("least_loaded", jobs, at_once=True)
    base = result.add("least_loaded, at once", at_once, _note(at_once))
    result.add("least_loaded", play("least_loaded", jobs))
    result.add("round_robin, at once", play("round_robin", jobs, at_once=True))
    outcomes = play("hybrid", jobs)
    ours = result.add("hybrid", outcomes, _note(outcomes))
    result.at_most("hybrid TTFT p50 / least_loaded at once", share(ours.ttft_ms.p50, base.ttft_ms.p50), 0.7)
    result.at_least("hybrid goodput over it, points", points(ours, base), 5)
    result.at_most(
        "hybrid TTFT p90 of prompts over 1 s / least_loaded at once",
        share(_long(outcomes).p90, _long(at_once).p90),
        3,
    )
    result.beside_others(ours, jobs)
    return result


def mooncake_22(part: float) -> Result:
    """Mooncake conversation at 2.2 times its speed: more than the engines can take in time, all of it."""
    jobs = workloads.mooncake(2.2, part)
    result = Result("mooncake x2.2")
    at_once = play("least_loaded", jobs, at_once=True)
    base = result.add("least_loaded, at once", at_once, _note(at_once))
    result.add("least_loaded", play("least_loaded", jobs))
    pushed = play("hybrid", jobs, at_once=True)
    result.add("hybrid, at once", pushed, _note(pushed))
    late_bound = play("hybrid", jobs)
    plain = result.add("hybrid", late_bound, _note(late_bound))
    told = [replace(job, deadline_ms=DEADLINE_MS) for job in jobs]
    ours = result.add("hybrid, callers give 1 s", play("hybrid", told))
    result.at_most("hybrid TTFT p50 / least_loaded at once", share(plain.ttft_ms.p50, base.ttft_ms.p50), 0.65)
    result.at_most(
        "hybrid TTFT p50 of prompts over 1 s / hybrid at once",
        share(_long(late_bound).p50, _long(pushed).p50),
        0.5,
    )
    result.at_least("hybrid goodput over it, points", points(plain, base), 40)
    result.at_least("hybrid goodput over it, callers give 1 s, points", points(ours, base), 40)
    result.beside_others(plain, jobs)
    return result


def _long(outcomes: Sequence[Outcome]) -> Percentiles:
    """How long prompts waited that take more than a second by themselves."""
    return waits_ms(outcome for outcome in outcomes if _alone_ms(outcome.job.prompt) > DEADLINE_MS)


def _note(outcomes: Sequence[Outcome]) -> str:
    waits = _long(outcomes)
    return f"prompts over 1 s: TTFT p50 {waits.p50:,.0f}, p90 {waits.p90:,.0f} ms"


def _alone_ms(prompt: int) -> float:
    """What an idle engine takes for it, with nothing cached."""
    step = EngineLimits().max_num_batched_tokens
    return sum(llm_step_ms(1, done, [(min(step, prompt - done), done)]) for done in range(0, prompt, step))


def prefix_tenants(part: float) -> Result:
    """400 tenants with 6,144-token prefixes, 64 requests/s."""
    jobs = workloads.prefix_tenants(300 * part)
    result = Result("400 shared prefixes")
    result.add("least_loaded, at once", play("least_loaded", jobs, at_once=True))
    pure = result.add("cheapest by prediction", play("adaptive", jobs))
    ours = result.add("hybrid", play("hybrid", jobs))
    result.at_least("hybrid goodput, %", 100 * ours.goodput, 85)
    result.at_least("hybrid goodput over cheapest by prediction, points", points(ours, pure), 0)
    result.beside_others(ours, jobs)
    return result


def one_prefix(part: float) -> Result:
    """One system prompt for all, at 0.7 of what the engines can take in time and at all of it."""
    result = Result("one shared prefix")
    for instances, seconds in ((3, 120), (4, 120), (8, 60), (16, 30)):
        for saturation in (0.7, 1.0):
            jobs = workloads.one_prefix(seconds * part, saturation * SATURATED_PER_S * instances)
            what = f"{instances} engines at {saturation}"
            base = result.add(
                "round_robin, at once",
                play("round_robin", jobs, at_once=True, instances=instances),
                at=what,
            )
            ours = result.add("hybrid", play("hybrid", jobs, instances=instances), at=what)
            result.beside_others(ours, jobs, at=what, instances=instances)
            result.at_least(
                f"{what}: hybrid goodput over round_robin at once, points", points(ours, base), -0.5
            )
            result.at_most(f"{what}: hybrid TTFT p99 / it", share(ours.ttft_ms.p99, base.ttft_ms.p99), 1.2)
    return result


def azure_12(part: float) -> Result:
    """Azure conversation at 12 times its speed."""
    return _azure("azure x12", workloads.azure(12, part), 0.85, lambda fleet: None)


def azure_slow(part: float) -> Result:
    """Azure conversation at 12 times its speed; from the middle on one instance takes 2.5 times as long."""
    jobs = workloads.azure(12, part)

    def prepare(fleet: ModelledFleet) -> None:
        fleet.events.at(jobs[-1].at_ms / 2, lambda: fleet.gpus[1].slow_down(2.5))

    return _azure("azure x12, one instance slow", jobs, 0.8, prepare)


def _azure(name: str, jobs: list[Job], limit: float, prepare: Callable[[ModelledFleet], None]) -> Result:
    result = Result(name)
    base = result.add("least_loaded, at once", play("least_loaded", jobs, at_once=True, prepare=prepare))
    result.add("least_loaded", play("least_loaded", jobs, prepare=prepare))
    result.add("round_robin, at once", play("round_robin", jobs, at_once=True, prepare=prepare))
    ours = result.add("hybrid", play("hybrid", jobs, prepare=prepare))
    result.at_most("hybrid TTFT p99 / least_loaded at once", share(ours.ttft_ms.p99, base.ttft_ms.p99), limit)
    result.beside_others(ours, jobs, prepare=prepare)
    return result


def long_bursts(part: float) -> Result:
    """Chats all the time and bursts of long documents marked as background; each class has its SLO."""
    jobs = workloads.long_bursts(600 * part)
    result = Result("bursts of long prompts")
    base = result.add("least_loaded, at once", play("least_loaded", jobs, at_once=True))
    pushed = result.add("hybrid, at once", play("hybrid", jobs, at_once=True))
    ours = result.add("hybrid", play("hybrid", jobs))
    result.at_least("hybrid goodput over hybrid at once, points", points(ours, pushed), 15)
    result.at_least("hybrid goodput over least_loaded at once, points", points(ours, base), 15)
    result.beside_others(ours, jobs)
    return result


def documents_over_capacity(part: float) -> Result:
    """Chats, and more documents than fit beside them: if all go when they come, all streams are too slow."""
    jobs = workloads.documents(300 * part, 20, 6)
    result = Result("chats, and documents over capacity")
    result.add("least_loaded, at once", play("least_loaded", jobs, at_once=True))
    pushed = result.add("hybrid, at once", play("hybrid", jobs, at_once=True))
    ours = result.add("hybrid", play("hybrid", jobs))
    result.at_least("hybrid goodput, %", 100 * ours.goodput, 70)
    result.at_least("hybrid goodput over hybrid at once, points", points(ours, pushed), 40)
    result.beside_others(ours, jobs)
    return result


def noisy_tenant(part: float) -> Result:
    """Ten quiet tenants and one that sends more than the engines can take: long prompts, then short ones.

    The shortest prompts go first, so long ones of one tenant harm the others little without fairness too.
    """
    result = Result("noisy tenant (quiet ones' figures)")
    for what, per_s, least, most in (("long", 40, 2000, 8000), ("short", 200, 200, 2000)):
        jobs = workloads.noisy_tenant(300 * part, per_s, least, most)
        nameless = [replace(job, tenant="") for job in jobs]
        pushed = result.add(
            f"{what}: least_loaded, at once", _quiet(jobs, play("least_loaded", jobs, at_once=True))
        )
        unfair = result.add(f"{what}: hybrid, no fairness", _quiet(jobs, play("hybrid", nameless)))
        ours = result.add(f"{what}: hybrid", _quiet(jobs, play("hybrid", jobs)))
        base, named = (pushed, "least_loaded at once") if what == "long" else (unfair, "no fairness")
        result.at_most(
            f"{what}: quiet tenants' TTFT p99 / {named}", share(ours.ttft_ms.p99, base.ttft_ms.p99), 0.15
        )
    return result


def _quiet(jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for job, outcome in zip(jobs, outcomes, strict=True) if job.tenant != "noisy"]


# Each with how little of it the tests take: the least that shows the same order in seconds.
CASES: dict[str, tuple[Callable[[float], Result], float]] = {
    "mooncake-1.6": (mooncake_16, 0.3),
    "mooncake-2.2": (mooncake_22, 0.3),
    "prefix-tenants": (prefix_tenants, 1.0),
    "one-prefix": (one_prefix, 0.2),
    "azure-12": (azure_12, 1.0),
    "azure-slow": (azure_slow, 1.0),
    "long-bursts": (long_bursts, 0.3),
    "documents": (documents_over_capacity, 0.2),
    "noisy-tenant": (noisy_tenant, 0.3),
    "mixed": (mixed, 0.2),
    "growing-chats": (growing_chats, 1.0),
    "agent-loops": (agent_loops, 1.0),
    "cold-start": (cold_start, 1.0),
    "cold-crowd": (cold_crowd, 1.0),
    "one-piece": (one_piece, 1.0),
    "slow-engines": (slow_engines, 1.0),
    "contexts": (contexts, 1.0),
    "closed-loop": (closed_loop, 0.2),
}
