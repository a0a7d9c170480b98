"""The schemas of ``bench`` and ``replay``."""

from __future__ import annotations

from sage_inference.cli.schemaparts import (
    COUNT,
    COUNT_OR_NULL,
    FLAG,
    FLAG_OR_NULL,
    NUMBER,
    NUMBER_OR_NULL,
    TEXT,
    answer,
    list_of,
    object_of,
    or_null,
)

SUMMARY = or_null(
    object_of(count=COUNT, mean=NUMBER, p50=NUMBER, p90=NUMBER, p99=NUMBER, p999=NUMBER, max=NUMBER)
)
WAITING = object_of(
    requests=COUNT,
    due_in_warmup=COUNT,
    median_ms=NUMBER_OR_NULL,
    longest_ms=NUMBER_OR_NULL,
    over_3x_median=COUNT_OR_NULL,
    over_3x_median_share=NUMBER_OR_NULL,
    callers_over_3x_median=NUMBER_OR_NULL,
    starving=COUNT,
    throughout=COUNT,
    unanswered=COUNT,
)
FIGURES = object_of(
    sent=COUNT,
    ok=COUNT,
    failed=COUNT,
    abandoned=COUNT,
    errors=list_of(object_of(kind=TEXT, count=COUNT, example=TEXT)),
    requests_per_s=NUMBER,
    prompt_tokens_per_s=NUMBER,
    output_tokens_per_s=NUMBER,
    chunks_per_s=NUMBER,
    ttft_ms=SUMMARY,
    tpot_ms=SUMMARY,
    inter_chunk_ms=SUMMARY,
    e2e_ms=SUMMARY,
    waiting=WAITING,
    good=COUNT_OR_NULL,
    good_share=NUMBER_OR_NULL,
    goodput_per_s=NUMBER_OR_NULL,
)
CEILING = object_of(concurrency=COUNT, requests_per_s=NUMBER, chunks_per_s=NUMBER, cpu_share=NUMBER)
# models and kinds have an entry for each kind that was sent: chat, stream, embeddings.
BENCH = answer(
    url=TEXT,
    models={"type": "object"},
    simulated=FLAG_OR_NULL,
    load=object_of(
        mode={"enum": ["closed", "open", "trace"]},
        concurrency=COUNT_OR_NULL,
        rate_per_s=NUMBER_OR_NULL,
        speedup=NUMBER_OR_NULL,
        duration_s=NUMBER_OR_NULL,
        requests=COUNT_OR_NULL,
        warmup_s=NUMBER,
        seed={"type": "integer"},
    ),
    slo=or_null(object_of(ttft_ms=NUMBER_OR_NULL, tpot_ms=NUMBER_OR_NULL, e2e_ms=NUMBER_OR_NULL)),
    measured_s=NUMBER,
    interrupted=FLAG,
    total=FIGURES,
    kinds={"type": "object"},
    generator=object_of(
        cpu_share=NUMBER,
        loop_lag_ms=SUMMARY,
        late_ms=SUMMARY,
        waited=COUNT,
        connections=COUNT,
        ceiling=or_null(CEILING),
        bottleneck=FLAG,
        reasons=list_of(TEXT),
    ),
    warnings=list_of(TEXT),
)
_PERCENTILES = object_of(p50=NUMBER_OR_NULL, p90=NUMBER_OR_NULL, p99=NUMBER_OR_NULL)
# The figures of a record; null for a trace.
RECORD = object_of(
    policy=TEXT,
    policy_recorded=FLAG,
    requests=COUNT,
    closed_loop_requests=COUNT,
    figures=list_of(object_of(name=TEXT, recorded=NUMBER, replayed=NUMBER, error={"type": "number"})),
    step_times=object_of(
        base_ms=NUMBER,
        sequence_ms=NUMBER,
        context_ms=NUMBER,
        prompt_ms=NUMBER,
        attention_ms=NUMBER,
        hidden_ms=NUMBER,
        request_ms=NUMBER,
        read_ms=NUMBER,
        write_ms=NUMBER,
    ),
    learned=object_of(decode=FLAG, prompts=FLAG, request=FLAG, rows=COUNT),
)
REPLAY = answer(
    requests=COUNT,
    left_out=COUNT,
    instances=COUNT,
    speed=NUMBER,
    slo=object_of(
        ttft_ms=NUMBER,
        tpot_ms=NUMBER,
        batch_ttft_ms=NUMBER,
        models=list_of(object_of(model=TEXT, ttft_ms=NUMBER, tpot_ms=NUMBER, batch_ttft_ms=NUMBER)),
    ),
    record=or_null(RECORD),
    policies=list_of(
        object_of(
            policy=TEXT,
            requests=COUNT,
            finished=COUNT,
            refused=COUNT,
            ttft_ms=_PERCENTILES,
            tpot_ms=_PERCENTILES,
            e2e_ms=_PERCENTILES,
            goodput=NUMBER,
            hit_ratio=NUMBER,
        )
    ),
)
