"""Why no instance takes a request, in words that help."""

from __future__ import annotations

from sage_inference.control_plane.pairs import path_of
from sage_inference.control_plane.refusal import Refusal, Why
from sage_inference.control_plane.registry import Registry
from sage_inference.types import ExecutionInstanceType, RequestMetadata


def unserved(registry: Registry, request: RequestMetadata) -> Refusal:
    """The refusal of a request whose group is empty."""
    model, path = request.effective_model_name, path_of(request.route)
    serving = registry.serving(path)
    everywhere = [i for i in registry.instances.values() if model in i.models]
    if any(i.instance_type is ExecutionInstanceType.PREFILLING and i in serving for i in everywhere):
        message = f'only prefilling instances serve model "{model}" now: they write no answers'
        return Refusal(Why.NO_HEALTHY_INSTANCE, message, retry_after_s=5)
    if everywhere and any(path in i.routes for i in everywhere):  # known, but draining
        message = f'every instance of model "{model}" is draining'
        return Refusal(Why.NO_HEALTHY_INSTANCE, message, retry_after_s=5)
    unknown = [i.instance_id for i in registry.instances.values() if not i.models]
    if unknown and not everywhere:
        message = f'no instance serves model "{model}" yet; not reached so far: {", ".join(unknown)}'
        return Refusal(Why.NO_HEALTHY_INSTANCE, message, retry_after_s=5)
    if everywhere:
        others = registry.models(serving)
        served = f"; served there: {', '.join(others)}" if others else ""
        message = f'model "{model}" is served, but not on {path}{served}'
        return Refusal(Why.UNKNOWN_MODEL if others else Why.NO_ENGINE_FOR_ROUTE, message, "model")
    served = ", ".join(registry.models()) or "none"
    return Refusal(Why.UNKNOWN_MODEL, f'no instance serves model "{model}"; served now: {served}', "model")
