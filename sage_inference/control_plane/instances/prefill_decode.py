"""Prefill/decode disaggregation: the prompt is computed on one instance, and the answer is decoded on another.

A request that can be divided has two legs, each placed like a request of its own. The prompt goes to a prefilling
instance, by its cost there. The rest goes to a decoding instance, by the requests that run there, because no prompt is
left to compute. To the registry a leg is a route of its own: ``/v1/completions#prefill``.

The eligible instances of a model that has instances of either kind, on the routes that generate text:

- ``#prefill``: the prefilling ones, while a prefilling and a decoding one are healthy; otherwise as for the original.
- ``#decode``: the decoding ones; if they all left, as for the original.
- the original request: instances of neither kind (``llm``, ``mixed``) while one is healthy; otherwise the decoding ones,
  which then compute the prompt as well; if none of these is healthy, any of both. Never a prefilling one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from sage_inference.requests.routes import ROUTES
from sage_inference.types import EngineState, ExecutionInstance, ExecutionInstanceType, SchedulingRequest

PREFILL, DECODE = "#prefill", "#decode"
# vLLM takes ``kv_transfer_params`` on these routes.
KV_TRANSFER_ROUTES = frozenset({"/v1/chat/completions", "/v1/completions"})
_WRITING = frozenset(path for path, route in ROUTES.items() if route.type.is_llm)
_PREFILLING, _DECODING = ExecutionInstanceType.PREFILLING, ExecutionInstanceType.DECODING

Instances = tuple[ExecutionInstance, ...]


class LegRequest(SchedulingRequest, gc=False):
    """One leg of a request, with its own size and route; ``original`` is the request as the caller sent it."""

    original: SchedulingRequest | None = None


def prefill_leg(original: SchedulingRequest) -> LegRequest:
    """The leg with the prompt. Its answer is short, so its first byte shows the pace even if the caller does not stream."""
    leg = _copy(original, PREFILL)
    leg.streams = True
    return leg


def decode_leg(original: SchedulingRequest) -> LegRequest:
    """The leg that is left after the prompt was computed on another instance."""
    leg = _copy(original, DECODE)
    leg.prompt_tokens = leg.prompt_bytes = 0
    leg.prompt_blocks = ()
    return leg


def _copy(original: SchedulingRequest, leg: str) -> LegRequest:
    fields = {**msgspec.structs.asdict(original), "route": original.route + leg}
    return LegRequest(**fields, original=original)


def original_of(request: SchedulingRequest) -> SchedulingRequest:
    """The request as the caller sent it."""
    return request.original or request if isinstance(request, LegRequest) else request


def leg_of(request: SchedulingRequest) -> str | None:
    """``prefill`` or ``decode``; None for an original request."""
    return request.route.partition("@")[0].partition("#")[2] or None


def path_of(route: str) -> str:
    """The route without its leg, or its instance."""
    return route.partition("@")[0].partition("#")[0]


def pinned_route(path: str, instance_id: str) -> str:
    """A route for one instance, because only that one has what the request needs."""
    return f"{path}@{instance_id}"


def pinned_to(route: str) -> str | None:
    """The only instance that takes the route; None if others may."""
    return route.partition("@")[2] or None


def is_disaggregated(instances: Iterable[ExecutionInstance]) -> bool:
    """Whether any of the instances only prefills or only decodes."""
    return any(i.instance_type in (_PREFILLING, _DECODING) for i in instances)


def eligible(serving: Sequence[ExecutionInstance], route: str) -> Instances:
    """The instances for ``route``, that of a leg or of an original request, among all that serve its path.

    They depend on which instances are healthy now. There may be none.
    """
    path, _, leg = route.partition("#")
    if path not in _WRITING:
        return tuple(serving)
    prefilling = _of(serving, _PREFILLING)
    decoding = _of(serving, _DECODING)
    if leg == "decode" and decoding:
        return decoding
    if leg == "prefill" and _any_healthy(prefilling) and _any_healthy(decoding):
        return prefilling
    others = tuple(i for i in serving if i not in prefilling and i not in decoding)
    if _any_healthy(others):
        return others
    return decoding if _any_healthy(decoding) else others + decoding


def _of(serving: Sequence[ExecutionInstance], kind: ExecutionInstanceType) -> Instances:
    return tuple(i for i in serving if i.instance_type is kind)


def _any_healthy(instances: Instances) -> bool:
    return any(i.state is EngineState.READY for i in instances)
