"""The type of exchange that a request gets, by its route. A route without an entry gets the plain ``Exchange``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from sage_inference.control_plane.instances.prefill_decode import is_disaggregated
from sage_inference.gateway.embeddings.exchange import EmbeddingExchange
from sage_inference.gateway.embeddings.root import RootExchange
from sage_inference.gateway.embeddings.service import EmbeddingService
from sage_inference.gateway.hub import Hub
from sage_inference.gateway.key_limits.limited import limited
from sage_inference.gateway.relay.caller import Caller
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.gateway.relay.prefill_decode import PrefillDecodeExchange
from sage_inference.gateway.relay.rerank import RerankExchange
from sage_inference.gateway.relay.responses import (
    DisaggregatedResponsesExchange,
    ResponsesExchange,
    StoredResponseExchange,
)
from sage_inference.gateway.tracing.exchange import traced
from sage_inference.requests import rerank
from sage_inference.requests.embedding import ROUTES as MERGED
from sage_inference.requests.response_routes import METHODS
from sage_inference.requests.root_route import ROOT
from sage_inference.requests.routes import ROUTES
from sage_inference.types import ExecutionInstance

# Makes the exchange of a request from its caller's connection, the hub, and the request's head.
Factory = Callable[[Caller[Exchange], Hub, RequestHead], Exchange]
Exchanges = Mapping[str, Factory]

_RESPONSES = "/v1/responses"
_PLAIN: Mapping[str, type[Exchange]] = {
    **dict.fromkeys(rerank.ROUTES, RerankExchange),
    **dict.fromkeys(METHODS, StoredResponseExchange),
    _RESPONSES: ResponsesExchange,
}
_DISAGGREGATED: Mapping[str, type[Exchange]] = {
    **_PLAIN,
    **{path: PrefillDecodeExchange for path, route in ROUTES.items() if route.type.is_llm},
    _RESPONSES: DisaggregatedResponsesExchange,
}


def exchanges_for(
    instances: Iterable[ExecutionInstance],
    embeddings: EmbeddingService,
    *,
    are_limited: bool = False,
    are_traced: bool = False,
) -> Exchanges:
    """The types for these instances. Only with prefilling or decoding ones do requests pay for two legs.

    ``are_limited``: of keys that have limits. If requests are limited or traced, every route has an entry.
    """

    def made(kind: type[Exchange]) -> Callable[..., Exchange]:
        kind = limited(kind) if are_limited else kind
        return traced(kind) if are_traced else kind

    types = _DISAGGREGATED if is_disaggregated(instances) else _PLAIN
    if are_limited or are_traced:
        types = {**dict.fromkeys(ROUTES, Exchange), **types}
    return {
        **{path: made(kind) for path, kind in types.items()},
        **dict.fromkeys(MERGED, partial(made(EmbeddingExchange), embeddings)),
        ROOT: partial(made(RootExchange), embeddings),
    }
