"""Several gateways before the same modelled engines, each with a scheduler and a memory of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from sage_inference.control_plane.policies import policy_named
from sage_inference.replay.fleet import ModelledFleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.run import Run

POLICY = "hybrid"
MODELS = 8
ENGINES = 4  # of each model


def by_model(jobs: Sequence[Job], models: int = MODELS) -> list[Job]:
    """Cut a workload into pieces of equal time, one for each model. All pieces begin at once."""
    span = jobs[-1].at_ms / models * (1 + 1e-9)
    parts = [(job, int(job.at_ms // span)) for job in jobs]
    moved = [replace(job, at_ms=job.at_ms - part * span, model=_model(part)) for job, part in parts]
    return sorted(moved, key=lambda job: job.at_ms)


def of_models(jobs: Sequence[Job], gateways: int) -> list[Outcome]:
    """Each gateway owns the engines of some models, and gets all requests for them."""
    owned = [{_model(number) for number in range(first, MODELS, gateways)} for first in range(gateways)]
    owner = {model: number for number, models in enumerate(owned) for model in models}
    return _play(jobs, owned, lambda _, job: owner[job.model])


def of_all(jobs: Sequence[Job], gateways: int) -> list[Outcome]:
    """All gateways send to all engines, and take turns at the requests. None knows what the others send."""
    models = {_model(number) for number in range(MODELS)}
    return _play(jobs, [models] * gateways, lambda place, _: place % gateways)


def _play(jobs: Sequence[Job], owned: list[set[str]], owner: Callable[[int, Job], int]) -> list[Outcome]:
    fleet = fleet_of_models()
    runs = [Run(policy_named(POLICY, fleet.clock), seen_anew(fleet, models)) for models in owned]
    shares: list[list[Job]] = [[] for _ in runs]
    for place, job in enumerate(jobs):
        shares[owner(place, job)].append(job)
    for run, share in zip(runs, shares, strict=True):
        run.expect(share)
    while fleet.events.step():
        pass
    return [outcome for run in runs for outcome in run.outcomes]


def fleet_of_models() -> ModelledFleet:
    """``ENGINES`` for each of the models."""
    fleet = ModelledFleet()
    for model in range(MODELS):
        for _ in range(ENGINES):
            fleet.add_llm(models=[_model(model)])
    return fleet


def seen_anew(fleet: ModelledFleet, models: set[str] | None = None) -> ModelledFleet:
    """The same engines, as a gateway sees them that knows nothing of them yet; those of ``models``, or all."""
    instances = [replace(i) for i in fleet.instances if models is None or models & set(i.models)]
    for instance in instances:
        instance.load.window_tokens = fleet.instances[0].load.window_tokens
    return replace(fleet, instances=instances)


def _model(number: int) -> str:
    return f"model-{number}"
