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
    shortest: int = 0,
    streams: bool = False,
    tenant: str = "",
    session: str = "",
) -> RequestMetadata:
    """A request with its prompt's size, and for prompts that engines cache also its blocks.

    What makes a model work counts: text that is only tokenized does not. Blocks are told of prompts of
    ``shortest`` bytes or more.
    """
    counted = b"" if kind is _TOKENIZE else prompt
    size = len(counted)
    script = script_of(counted)
    rate = estimates.tokens_per_byte(model, script)
    return RequestMetadata(
        request_id,
        kind,
        model,
        route,
        tenant=tenant,
        prompt_tokens=int(size * rate),
        arrived=arrived,
        streams=streams,
        session=session,
        prompt_bytes=size,
        prompt_blocks=prompt_blocks(counted) if size >= shortest and kind.is_llm else (),
        block_tokens=BLOCK_BYTES * rate,
        script=script,
    )
