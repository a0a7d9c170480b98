"""The schemas of ``bench`` and ``replay``."""

from __future__ import annotations

from sage_inference.cli.schemaparts import (
    _COUNT,
    _COUNT_OR_NULL,
    _FLAG,
    _FLAG_OR_NULL,
    _NUMBER,
    _NUMBER_OR_NULL,
    _TEXT,
    _answer,
    _list,
    _object,
    _or_null,
)

SUMMARY = _or_null(
    _object(count=_COUNT, mean=_NUMBER, p50=_NUMBER, p90=_NUMBER, p99=_NUMBER, p999=_NUMBER, max=_NUMBER)
)
WAITING = _object(
    requests=_COUNT,
    due_in_warmup=_COUNT,
    median_ms=_NUMBER_OR_NULL,
    longest_ms=_NUMBER_OR_NULL,
    over_3x_median=_COUNT_OR_NULL,
    over_3x_median_share=_NUMBER_OR_NULL,
    callers_over_3x_median=_NUMBER_OR_NULL,
    starving=_COUNT,
    throughout=_COUNT,
    unanswered=_COUNT,
)
FIGURES = _object(
    sent=_COUNT,
    ok=_COUNT,
    failed=_COUNT,
    abandoned=_COUNT,
    errors=_list(_object(kind=_TEXT, count=_COUNT, example=_TEXT)),
    requests_per_s=_NUMBER,
    prompt_tokens_per_s=_NUMBER,
    output_tokens_per_s=_NUMBER,
    chunks_per_s=_NUMBER,
    ttft_ms=SUMMARY,
    tpot_ms=SUMMARY,
    inter_chunk_ms=SUMMARY,
    e2e_ms=SUMMARY,
    waiting=WAITING,
    good=_COUNT_OR_NULL,
    good_share=_NUMBER_OR_NULL,
    goodput_per_s=_NUMBER_OR_NULL,
)
CEILING = _object(concurrency=_COUNT, requests_per_s=_NUMBER, chunks_per_s=_NUMBER, cpu_share=_NUMBER)
# models and kinds have an entry for each kind that was sent: chat, stream, embeddings.
BENCH = _answer(
    url=_TEXT,
    models={"type": "object"},
    simulated=_FLAG_OR_NULL,
    load=_object(
        mode={"enum": ["closed", "open", "trace"]},
        concurrency=_COUNT_OR_NULL,
        rate_per_s=_NUMBER_OR_NULL,
        speedup=_NUMBER_OR_NULL,
        duration_s=_NUMBER_OR_NULL,
        requests=_COUNT_OR_NULL,
        warmup_s=_NUMBER,
        seed={"type": "integer"},
    ),
    slo=_or_null(_object(ttft_ms=_NUMBER_OR_NULL, tpot_ms=_NUMBER_OR_NULL, e2e_ms=_NUMBER_OR_NULL)),
    measured_s=_NUMBER,
    interrupted=_FLAG,
    total=FIGURES,
    kinds={"type": "object"},
    generator=_object(
        cpu_share=_NUMBER,
        loop_lag_ms=SUMMARY,
        late_ms=SUMMARY,
        waited=_COUNT,
        connections=_COUNT,
        ceiling=_or_null(CEILING),
        bottleneck=_FLAG,
        reasons=_list(_TEXT),
    ),
    warnings=_list(_TEXT),
)
_PERCENTILES = _object(p50=_NUMBER_OR_NULL, p90=_NUMBER_OR_NULL, p99=_NUMBER_OR_NULL)
# The figures of a record; null for a trace.
RECORD = _object(
    policy=_TEXT,
    policy_recorded=_FLAG,
    requests=_COUNT,
    closed_loop_requests=_COUNT,
    figures=_list(
        _object(
            name=_TEXT,
            recorded=_NUMBER,
            replayed=_NUMBER,
            error={"type": "number"},
            replays=_list(_NUMBER),
        )
    ),
    step_times=_object(
        base_ms=_NUMBER,
        sequence_ms=_NUMBER,
        context_ms=_NUMBER,
        prompt_ms=_NUMBER,
        attention_ms=_NUMBER,
        hidden_ms=_NUMBER,
        request_ms=_NUMBER,
        read_ms=_NUMBER,
        write_ms=_NUMBER,
        within_ms=_NUMBER,
        ahead=_FLAG,
        turns=_COUNT,
    ),
    learned=_object(decode=_FLAG, prompts=_FLAG, request=_FLAG, rows=_COUNT),
)
REPLAY = _answer(
    requests=_COUNT,
    left_out=_COUNT,
    instances=_COUNT,
    speed=_NUMBER,
    slo=_object(
        ttft_ms=_NUMBER,
        tpot_ms=_NUMBER,
        batch_ttft_ms=_NUMBER,
        models=_list(_object(model=_TEXT, ttft_ms=_NUMBER, tpot_ms=_NUMBER, batch_ttft_ms=_NUMBER)),
    ),
    record=_or_null(RECORD),
    policies=_list(
        _object(
            policy=_TEXT,
            requests=_COUNT,
            finished=_COUNT,
            refused=_COUNT,
            ttft_ms=_PERCENTILES,
            tpot_ms=_PERCENTILES,
            e2e_ms=_PERCENTILES,
            goodput=_NUMBER,
            hit_ratio=_NUMBER,
        )
    ),
)
