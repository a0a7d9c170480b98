"""What scheduling wants to know of a prompt: about how many tokens it has, and which blocks."""

from __future__ import annotations

from sage_inference.control_plane.estimates import TokenEstimates, script_of
from sage_inference.control_plane.prefix_index import BLOCK_BYTES, prompt_blocks
from sage_inference.types import RequestMetadata, RequestType


def measure(request: RequestMetadata, prompt: bytes, estimates: TokenEstimates) -> None:
    """Fill in the request's size, and for prompts that engines cache also its blocks.

    What makes a model work counts: text that is only tokenized does not.
    """
    if request.request_type is RequestType.TOKENIZE:
        return
    size = len(prompt)
    request.script = script = script_of(prompt)
    rate = estimates.tokens_per_byte(request.model, script)
    request.prompt_bytes = size
    request.prompt_tokens = int(size * rate)
    if request.request_type.is_llm:
        request.prompt_blocks = prompt_blocks(prompt)
        request.block_tokens = BLOCK_BYTES * rate
