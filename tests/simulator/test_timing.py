"""The timing model against the measurements that it was fitted to."""

from __future__ import annotations

import pytest

from sage_inference.simulator.timing import encoder_ms, llm_step_ms

# Measured on one H100 80 GB: [sequences, context of each, ms], [new tokens, cached before, ms],
# [texts, tokens of each, ms].
DECODE = [(1, 512, 6.12), (32, 512, 6.85), (64, 4096, 13.15), (128, 2048, 13.55), (256, 1024, 14.52)]
PREFILL = [(1024, 0, 25.58), (4096, 0, 102.0), (8192, 0, 211.9), (2048, 8192, 67.7), (8192, 8192, 280.2)]
ENCODER = [(1, 128, 1.12), (32, 128, 5.72), (128, 128, 22.70), (32, 512, 23.83)]


@pytest.mark.parametrize(("sequences", "context", "measured"), DECODE)
def test_decode_step_is_near_the_measurement(sequences: int, context: int, measured: float) -> None:
    assert llm_step_ms(sequences, sequences * context) == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize(("new", "before", "measured"), PREFILL)
def test_prefill_step_is_near_the_measurement(new: int, before: int, measured: float) -> None:
    assert llm_step_ms(1, new + before, [(new, before)]) == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize(("texts", "tokens", "measured"), ENCODER)
def test_encoder_batch_is_near_the_measurement(texts: int, tokens: int, measured: float) -> None:
    assert encoder_ms(texts * tokens) == pytest.approx(measured, rel=0.25)


def test_small_prompts_ride_along_for_free() -> None:
    assert llm_step_ms(8, 4000, [(200, 0)]) == pytest.approx(llm_step_ms(8, 4000), abs=0.1)
