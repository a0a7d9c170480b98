"""Which kind of exchange a request gets, by its route; whatever is not named gets the plain one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sage_inference.control_plane.instances.prefill_decode import has_halves
from sage_inference.gateway.embeddings.exchange import EmbeddingExchange
from sage_inference.gateway.embeddings.root import RootExchange
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.prefill_decode import PrefillDecodeExchange
from sage_inference.gateway.relay.rerank import RerankExchange
from sage_inference.gateway.relay.responses import (
    PairedResponsesExchange,
    ResponsesExchange,
    StoredResponseExchange,
)
from sage_inference.requests import rerank
from sage_inference.requests.embedding import ROUTES as MERGED
from sage_inference.requests.response_routes import METHODS
from sage_inference.requests.root_route import ROOT
from sage_inference.requests.routes import ROUTES
from sage_inference.types import ExecutionInstance

Exchanges = Mapping[str, type[Exchange]]

_RESPONSES = "/v1/responses"
_PLAIN: Exchanges = {
    **dict.fromkeys(MERGED, EmbeddingExchange),
    **dict.fromkeys(rerank.ROUTES, RerankExchange),
    **dict.fromkeys(METHODS, StoredResponseExchange),
    ROOT: RootExchange,
    _RESPONSES: ResponsesExchange,
}
_PAIRED: Exchanges = {
    **_PLAIN,
    **{path: PrefillDecodeExchange for path, route in ROUTES.items() if route.type.is_llm},
    _RESPONSES: PairedResponsesExchange,
}


def exchanges_for(instances: Iterable[ExecutionInstance]) -> Exchanges:
    """Without prefilling and decoding instances nobody pays for them."""
    return _PAIRED if has_halves(instances) else _PLAIN
