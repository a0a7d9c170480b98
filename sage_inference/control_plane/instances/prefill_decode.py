"""Pairs: instances that work off a model's prompts, and instances that go on with them (prefilling, decoding).

A request that can be split has two legs, each placed like a request of its own: the prompt on a prefilling
instance, by its cost there, and then the rest on a decoding one, which has no prompt left to work off, so that
it goes by the requests that run. To the registry a leg is a route of its own: ``/v1/completions#prefill``.

Which instances take what, on the routes that make text, of a model that has any of either kind:

- ``#prefill``: the prefilling ones, while a prefilling and a decoding one are healthy; else as the whole.
- ``#decode``: the decoding ones; if they all left, as the whole.
- the whole: those that are neither (``llm``, ``mixed``), while one is healthy; else the decoding ones, which then
  work off the prompt too; if none is healthy either, any of both. Never a prefilling one.
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
    """The prompt. Its answer is short: whether the caller's streams or not, its first byte tells the pace."""
    leg = _copy(original, PREFILL)
    leg.streams = True
    return leg


def decode_leg(original: SchedulingRequest) -> LegRequest:
    """What is left when the prompt was worked off elsewhere."""
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
    """``prefill`` or ``decode``; None for a whole request."""
    return request.route.partition("@")[0].partition("#")[2] or None


def path_of(route: str) -> str:
    """The route without its leg, or its instance."""
    return route.partition("@")[0].partition("#")[0]


def pinned_route(path: str, instance_id: str) -> str:
    """A route that only one instance takes, because it has something that no other has."""
    return f"{path}@{instance_id}"


def pinned_to(route: str) -> str | None:
    """The only instance that takes the route; None where others may."""
    return route.partition("@")[2] or None


def is_disaggregated(instances: Iterable[ExecutionInstance]) -> bool:
    """Whether any of them is half of a pair."""
    return any(i.instance_type in (_PREFILLING, _DECODING) for i in instances)


def eligible(serving: Sequence[ExecutionInstance], route: str) -> Instances:
    """Those that take ``route``, a leg or a whole, among all that serve its path; empty where none does.

    Which they are depends on who is healthy now.
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
