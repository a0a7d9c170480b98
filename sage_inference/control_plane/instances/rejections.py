"""The reason why no instance takes a request, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence

from sage_inference.control_plane.instances.prefill_decode import path_of
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.control_plane.slo import milliseconds
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.types import EngineState, ExecutionInstance, ExecutionInstanceType, SchedulingRequest

_MOST_NAMED = 10  # instances in a message
RETRY_S = 5  # about the time between two probes


def queue_timeout(seconds: float, retry_after_s: int) -> Rejection:
    """The rejection of a request that waited ``seconds``, the most that the settings allow."""
    message = f"no instance had a free slot within {seconds:g} s (timeouts.queue_s)"
    return Rejection(Reason.QUEUE_TIMEOUT, message, retry_after_s=retry_after_s)


def deadline_passed(request: SchedulingRequest, retry_after_s: int) -> Rejection:
    """The rejection of a request that waited until its own deadline."""
    assert request.slo_deadline_ms is not None
    message = f"no instance was free within the deadline of {milliseconds(request.slo_deadline_ms)}"
    return Rejection(Reason.DEADLINE, message, retry_after_s=retry_after_s)


def unserved(registry: Registry, request: SchedulingRequest) -> Rejection:
    """The rejection of a request whose group is empty."""
    model, path = request.model, path_of(request.route)
    serving = registry.serving(path)
    everywhere = [i for i in registry.instances.values() if model in i.models]
    able = [i for i in everywhere if path in i.routes]
    if refusal := asleep(model, able):
        return refusal
    if any(i.instance_type is ExecutionInstanceType.PREFILLING and i in serving for i in able):
        return _later(f'only prefilling instances serve model "{model}" now: they write no answers')
    if able:
        return _later(f'every instance of model "{model}" is draining')
    if not everywhere and (refusal := departed(registry, model)):
        return refusal
    if not any(i.routes for i in everywhere) and (unknown := _unknown(registry)):
        return _later(f'no instance serves model "{model}" yet; {unknown}')
    if everywhere:
        others = registry.models(serving)
        served = f"; served there: {', '.join(others)}" if others else ""
        message = f'model "{model}" is served, but not on {path}{served}'
        return Rejection(Reason.UNKNOWN_MODEL if others else Reason.NO_ENGINE_FOR_ROUTE, message, "model")
    served = ", ".join(registry.models()) or "none"
    return Rejection(
        Reason.UNKNOWN_MODEL, f'no instance serves model "{model}"; served now: {served}', "model"
    )


def unserved_route(registry: Registry, path: str) -> Rejection:
    """The rejection of a request that names no model, on a route for which no instance takes work."""
    able = [i for i in registry.instances.values() if path in i.routes and i.models]
    if able:
        return asleep(None, able) or _later(f"every instance that serves {path} is draining")
    if unknown := _unknown(registry):
        return _later(f"no instance serves {path} yet; {unknown}")
    for model, why in registry.departed.items():
        return _later(f'no instance serves {path} now; of model "{model}" {why}')
    return Rejection(Reason.NO_ENGINE_FOR_ROUTE, f"no configured instance serves {path}")


def departed(registry: Registry, model: str) -> Rejection | None:
    """The rejection of a request for a model whose last instance left a short time ago; None if none did."""
    why = registry.departed.get(model)
    return _later(f'model "{model}" has no instance now: {why}') if why else None


def unhealthy(model: str, names: Sequence[str]) -> Rejection:
    """The rejection of a question for a model while none of its instances is healthy."""
    return _later(f'no healthy instance serves model "{model}"; it is known of {_some(names)}')


def asleep(model: str | None, instances: Sequence[ExecutionInstance]) -> Rejection | None:
    """The rejection of a request for ``model`` that sleeping instances serve; None if none of them sleeps."""
    names = [i.instance_id for i in instances if i.state is EngineState.ASLEEP]
    if not names:
        return None
    what = f'model "{model}" is asleep' if model else "every instance that serves this route is asleep"
    return _later(f"{what} (on {', '.join(names)}); POST /wake_up to that engine wakes it")


def _unknown(registry: Registry) -> str:
    """The instances whose models or routes are not known, and why; empty if there are none."""
    instances = registry.instances.values()
    unseen = [i.instance_id for i in instances if not i.routes]
    unlisted = [i.instance_id for i in instances if i.routes and not i.models]
    parts = (
        ("not reached so far", unseen),
        ("lists no model yet", unlisted),
        ("no list so far from", registry.awaited),
    )
    return "; ".join(f"{what}: {_some(names)}" for what, names in parts if names)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _later(message: str) -> Rejection:
    return Rejection(Reason.NO_HEALTHY_INSTANCE, message, retry_after_s=RETRY_S)
