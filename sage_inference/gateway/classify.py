"""Builds the scheduler's view of a request from its head and body."""

from __future__ import annotations

from sage_inference.control_plane.instances.rejections import unserved_route
from sage_inference.gateway.hub import Hub
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.requests.body import read, with_model
from sage_inference.requests.output_limits import asked_output
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.requests.routes import Route
from sage_inference.types import RequestPriority, RequestType, SchedulingRequest

_TOKENIZE = RequestType.TOKENIZE  # as a global: an enum's members are looked up by a Python call


def classify(
    hub: Hub, head: RequestHead, body: bytes, request_id: bytes, arrived: float
) -> tuple[SchedulingRequest, bytes, bytes]:
    """Returns the request, the body for the engine, and the prompt, which is not measured yet.

    The body changes only if it names an alias or no model. ``arrived`` is a time of the hub's clock. Raises
    ``Rejection``.
    """
    route, kind = head.route, head.route.type
    asked = read(route, body)
    named = asked.model
    output = asked_output(body, hub.limits) if hub.looks_at_output and kind.is_llm else 0
    model = named or _implied_model(hub, route)
    registry = hub.registry
    if model in registry.names:
        model = registry.resolve(model)
    if model != named and (named is not None or route.names_model):
        body = with_model(route, body, model)
    prompt, user = asked.prompt, asked.user
    request = SchedulingRequest(
        request_id.decode("latin-1"),
        kind,
        model,
        route.path,
        tenant=head.tenant or user,
        arrived=arrived,
        streams=asked.streams,
        session=user,
        prompt_bytes=0 if kind is _TOKENIZE else len(prompt),  # text that is only tokenized is no work
        output_tokens=output,
        choices=asked.choices,
        user=user,
    )
    if hub.key_priority or head.asks is not None:
        _heed_headers(hub, request, head)
    return request, body, prompt


def _heed_headers(hub: Hub, request: SchedulingRequest, head: RequestHead) -> None:
    """Set priority, deadline and session as the caller's headers ask. A key may bound the priority."""
    bound = hub.key_priority.get(head.tenant)
    if bound is not None:
        request.priority = bound
    asks = head.asks
    if asks is not None:
        if asks.refusal is not None:
            raise asks.refusal
        if asks.priority is not None:
            request.priority = max(asks.priority, bound or RequestPriority.CRITICAL)
        request.slo_deadline_ms = asks.deadline_ms
        request.session = asks.session or request.session


def _implied_model(hub: Hub, route: Route) -> str:
    """The model of a body that names none. Raises ``Rejection`` if several could be meant."""
    settings, registry = hub.settings, hub.registry
    serving = registry.staying(route.path)
    default = settings.embedding_model if not route.type.is_llm else settings.llm_model
    served = registry.models(serving)
    if default is not None:
        default = registry.resolve(default)
        if default in served or not served or default in hub.waiting_room.declared:
            return default
    if len({i.models for i in serving if i.models}) == 1:
        return served[0]
    if served:
        raise Rejection(Reason.BAD_REQUEST, f"'model' is needed; served: {', '.join(served)}", "model")
    raise unserved_route(registry, route.path)
