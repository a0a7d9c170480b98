"""The mixed case: chats, and embeddings without end, on GPUs that both kinds of engine share.

vLLM's embedding engine uses the GPU for a fifth of its time, TEI's for all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sage_inference.control_plane.policies import policy_named
from sage_inference.replay.encoder_engine import EncoderEngine
from sage_inference.replay.fleet import ModelledFleet, mixed_fleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.pooling_engine import PoolingEngine
from sage_inference.replay.run import Run
from sage_inference.types import RequestType
from tests.bench.traces import workloads
from tests.bench.traces.contest import Result, share

GPUS = 2
OUTSTANDING = 4  # embedding calls a GPU
ENCODERS = {"vLLM": PoolingEngine, "TEI": EncoderEngine}
CALL_TOKENS = 16_384  # an encoder's whole batch


def mixed(part: float) -> Result:
    """Azure conversation at 5 times its speed on 2 GPUs, with endless bulk embeddings on the same 2."""
    jobs = workloads.azure(5, 0.25 * part)
    result = Result(f"mixed, {GPUS} GPUs (LLM's figures)")
    for name, encoder in ENCODERS.items():
        ignorant = mixed_fleet(GPUS, encoder=encoder)
        for instance in ignorant.instances:
            instance.gpu = None
        free = _play(result, f"{name}, uncontrolled", ignorant, jobs)
        ratio = _play(result, f"{name}, ratio 0.7", mixed_fleet(GPUS, encoder=encoder, llm_share=0.7), jobs)
        adaptive = _play(
            result, f"{name}, adaptive", mixed_fleet(GPUS, encoder=encoder, llm_share=None), jobs
        )
        result.at_least(f"{name}: LLM goodput at ratio 0.7, %", 100 * ratio[0], 95)
        result.at_least(
            f"{name}: embedding throughput at ratio 0.7 / uncontrolled", share(ratio[1], free[1]), 0.6
        )
        result.at_least(f"{name}: LLM goodput, adaptive, %", 100 * adaptive[0], 99)
        if encoder is PoolingEngine:  # TEI's uses all of the GPU, which streams need a part of
            result.at_least(
                f"{name}: embedding throughput, adaptive / uncontrolled", share(adaptive[1], free[1]), 0.85
            )
    return result


def _play(result: Result, name: str, fleet: ModelledFleet, jobs: Sequence[Job]) -> tuple[float, float]:
    """LLM goodput, and embedded tokens per millisecond while LLM requests came."""
    until = jobs[-1].at_ms
    call = Job(0.0, CALL_TOKENS, 1, request_type=RequestType.EMBEDDING)

    def again(outcome: Outcome) -> None:
        if outcome.job is call and fleet.events.now < until:
            run.submit(call)

    run = Run(policy_named("hybrid", fleet.clock), fleet, again)
    for _ in range(OUTSTANDING * GPUS):
        fleet.events.at(0.0, lambda: run.submit(call))
    outcomes = run.play(jobs)
    embedded = CALL_TOKENS * sum(
        o.job is call and o.end_ms is not None and o.end_ms < until for o in outcomes
    )
    rate = embedded / until
    chats = [outcome for outcome in outcomes if outcome.job is not call]
    return result.add(name, chats, f"embedding {rate:,.0f} tokens/ms").goodput, rate
