"""The bytes of a call that has texts of several callers."""

from __future__ import annotations

from collections.abc import Sequence

from sage_inference.control_plane.embedding import EmbeddingBatch
from sage_inference.engines.embeddings.wire import call_body
from sage_inference.gateway.embeddings.caller import EmbeddingCaller
from sage_inference.gateway.upstream import Upstream
from sage_inference.requests.routes import ROUTES

# The gateway reads the answer. Without the second line any content coding would be allowed (RFC 9110 section 12.5.3).
_READ_HERE = b"content-type: application/json\r\naccept-encoding: identity\r\n"


def merged_message(
    engine: Upstream, route: str, batch: EmbeddingBatch, callers: Sequence[EmbeddingCaller]
) -> tuple[bytes, bytes]:
    """The start of the call's head, and its body. The callers agree in their options and credentials."""
    one = callers[0]
    base64 = any(caller.wanted.base64 for caller in callers)
    body = call_body(route, one.request.model, batch.raws, one.options, base64=base64)
    start = engine.request_prefix(ROUTES[route], route.encode()) + _READ_HERE
    return start + one.credentials if engine.keeps_callers_key else start, body
