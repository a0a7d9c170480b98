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


# vLLM 0.25.1 with a bge-m3-like encoder on one H200, as recorded: texts of 100 to 500 tokens, 1 to 64 callers. A call
# alone takes the sum of its stages, and several calls as long as the slowest stage, which is the front end.
_CALL_MS, _TEXT_MS, _TOKEN_MS = 1.1, 1.2, 0.0024
_BEFORE = 0.5  # of a text's time in the front end; the rest is spent on its answer
_STEP_MS, _STEP_TEXT_MS = 7.5, 0.7
TRANSIT_MS = 8.0  # between the processes, beside all other work


def front_end_ms(texts: int, tokens: int) -> tuple[float, float]:
    """Milliseconds of vLLM's front end for a call: to read and tokenize it, and to write its answer.

    It is one Python process that works on one call at a time, beside the GPU.
    """
    text_ms = _TEXT_MS * texts
    return _CALL_MS + _BEFORE * text_ms + _TOKEN_MS * tokens, (1 - _BEFORE) * text_ms


def pooling_cpu_ms(texts: int) -> float:
    """Milliseconds for which vLLM's core prepares and ends a forward pass over so many texts, while the GPU is idle."""
    return _STEP_MS + _STEP_TEXT_MS * texts


def pooling_step_ms(texts: int, tokens: int) -> float:
    """Milliseconds of one step of vLLM's core with so many texts: ``pooling_cpu_ms`` and the forward pass."""
    return pooling_cpu_ms(texts) + encoder_ms(tokens)
