"""The duration of a step as a pure function of its batch.

The functions are calibrated on one NVIDIA H100 80 GB (torch 2.11, bf16, CUDA graphs for decode): a 7B-like decoder
and a bge-m3-like encoder, both with random weights. They serve to compare policies, not to predict your hardware.
"""

from __future__ import annotations

from collections.abc import Iterable


def llm_step_ms(sequences: int, context_tokens: int, chunks: Iterable[tuple[int, int]] = ()) -> float:
    """Milliseconds of one engine step with ``sequences``, which have ``context_tokens`` in all.

    ``chunks`` are the prompt parts computed in this step: (new tokens, tokens before them).
    """
    new_tokens = 0
    attention = 0.0
    for new, before in chunks:
        new_tokens += new
        attention += new * (before + new / 2)
    prefill = max(0.0, 0.022 * new_tokens - 5.5) + 1.0e-6 * attention
    return 7.0 + 0.013 * sequences + 2.5e-5 * context_tokens + prefill


def encoder_ms(tokens: int) -> float:
    """Milliseconds of one forward pass of an encoder over a batch of ``tokens``."""
    return 1.1 + 0.00138 * tokens
