"""The duration of a step as a pure function of its batch.

The constants are calibrated on one NVIDIA H100 80 GB (torch 2.11, bf16, CUDA graphs for decode): a 7B-like decoder
and a bge-m3-like encoder, both with random weights. They serve to compare policies, not to predict your hardware.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Milliseconds of each term. The defaults are those of an H100 with a 7B-like decoder.

    A step takes ``base_ms``, ``sequence_ms`` for each sequence, ``context_ms`` for each token that they attend to,
    ``prompt_ms`` for each prompt token that it computes, ``attention_ms`` for each pair of a new token and one of an
    earlier step, and ``within_ms`` for each pair of two new tokens. The pairs of one step take longer, because kernels
    also compute a part of those that the causal mask leaves out. ``hidden_ms`` of the prompt tokens' time is hidden
    behind the rest of the step.

    The others are the times of the process in front of the GPU: ``request_ms`` passes for each request beside all other
    work, ``read_ms`` is the work of reading one, done in ``turns``, and ``write_ms`` that of writing a token. With
    ``ahead`` a step is planned when the one before it begins, as vLLM's asynchronous scheduling does.
    """

    base_ms: float = 7.0
    sequence_ms: float = 0.013
    context_ms: float = 2.5e-5
    prompt_ms: float = 0.022
    attention_ms: float = 1.0e-6
    hidden_ms: float = 5.5
    request_ms: float = 0.0
    read_ms: float = 0.0
    write_ms: float = 0.0
    within_ms: float = 1.0e-6
    ahead: bool = False
    turns: int = 1

    def step_ms(self, sequences: int, context_tokens: int, chunks: Iterable[tuple[int, int]] = ()) -> float:
        """Milliseconds of one step with ``sequences``, which have ``context_tokens`` in all.

        ``chunks`` are the prompt parts computed in this step: (new tokens, tokens before them).
        """
        new_tokens = 0
        attention = 0.0
        for new, before in chunks:
            new_tokens += new
            attention += new * (self.attention_ms * before + self.within_ms * new / 2)
        prompts = max(0.0, self.prompt_ms * new_tokens - self.hidden_ms) + attention
        return self.base_ms + self.sequence_ms * sequences + self.context_ms * context_tokens + prompts


USUAL = StepTimes()


llm_step_ms = USUAL.step_ms


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
