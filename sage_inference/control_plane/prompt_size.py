"""The size of a prompt, as scheduling needs it: an estimate of its tokens, and its blocks."""

from __future__ import annotations

from sage_inference.control_plane.accounting.estimates import TokenEstimates, script_of
from sage_inference.control_plane.prefix_index import BLOCK_BYTES, prompt_blocks
from sage_inference.types import SchedulingRequest


def measure(request: SchedulingRequest, prompt: bytes, estimates: TokenEstimates, shortest: int = 0) -> None:
    """Set the size of the request's prompt, and the blocks of a prompt that engines cache.

    Only the part of a body that a model works on counts: ``prompt`` has ``request.prompt_bytes`` of that, or none. Prompts
    under ``shortest`` bytes get no blocks.
    """
    size = request.prompt_bytes
    request.script = script = script_of(prompt) if size else 0
    rate = estimates.tokens_per_byte(request.model, script)
    request.prompt_tokens = int(size * rate)
    request.block_tokens = BLOCK_BYTES * rate
    if size >= shortest and request.request_type.is_llm:
        request.prompt_blocks = prompt_blocks(prompt) if size else []
