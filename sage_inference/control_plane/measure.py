"""What scheduling wants to know of a prompt: about how many tokens it has, and which blocks."""

from __future__ import annotations

from sage_inference.control_plane.estimates import TokenEstimates, script_of
from sage_inference.control_plane.prefix_index import BLOCK_BYTES, prompt_blocks
from sage_inference.types import RequestMetadata, RequestType

_TOKENIZE = RequestType.TOKENIZE


def measured(
    prompt: bytes,
    estimates: TokenEstimates,
    request_id: str,
    kind: RequestType,
    model: str,
    route: str,
    *,
    arrived: float,
    streams: bool = False,
    tenant: str = "",
    session: str = "",
) -> RequestMetadata:
    """A request with its prompt's size, and for prompts that engines cache also its blocks.

    What makes a model work counts: text that is only tokenized does not.
    """
    counted = b"" if kind is _TOKENIZE else prompt
    script = script_of(counted)
    rate = estimates.tokens_per_byte(model, script)
    return RequestMetadata(
        request_id,
        kind,
        model,
        route,
        tenant=tenant,
        prompt_tokens=int(len(counted) * rate),
        arrived=arrived,
        streams=streams,
        session=session,
        prompt_bytes=len(counted),
        prompt_blocks=prompt_blocks(counted) if kind.is_llm else (),
        block_tokens=BLOCK_BYTES * rate,
        script=script,
    )
