"""What scheduling wants to know of a prompt: about how many tokens it has, and which blocks."""

from __future__ import annotations

from sage_inference.control_plane.accounting.estimates import TokenEstimates, script_of
from sage_inference.control_plane.prefix_index import BLOCK_BYTES, prompt_blocks
from sage_inference.types import SchedulingRequest


def measure(request: SchedulingRequest, prompt: bytes, estimates: TokenEstimates, shortest: int = 0) -> None:
    """Tell the request its prompt's size, and of prompts that engines cache also the blocks.

    What makes a model work counts: ``prompt`` has ``request.prompt_bytes`` of that, or none. Blocks are told of
    prompts of ``shortest`` bytes or more.
    """
    size = request.prompt_bytes
    request.script = script = script_of(prompt) if size else 0
    rate = estimates.tokens_per_byte(request.model, script)
    request.prompt_tokens = int(size * rate)
    request.block_tokens = BLOCK_BYTES * rate
    if size >= shortest and request.request_type.is_llm:
        request.prompt_blocks = prompt_blocks(prompt) if size else []
