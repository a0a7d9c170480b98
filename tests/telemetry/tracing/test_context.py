"""The W3C trace context, and which requests are traced."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from sage_inference.telemetry.tracing.context import TraceContext, context_in, header_lines, new_span_id
from sage_inference.telemetry.tracing.sampling import Sampler, sampler_of
from tests.support.tracing import PARENT, TRACE

GOOD = f"00-{TRACE}-{PARENT}-01".encode()
CONTEXT = TraceContext(int(TRACE, 16), int(PARENT, 16), 1, b"")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (GOOD, CONTEXT),
        (b" " + GOOD + b"\t", CONTEXT),
        (b"cc" + GOOD[2:], CONTEXT),
        (b"cc" + GOOD[2:] + b"-what-the-future-brings", CONTEXT),
        (b"cc" + GOOD[2:] + b".what", None),
        (GOOD[:-2] + b"00", CONTEXT._replace(flags=0)),
        (GOOD[:-2] + b"ff", CONTEXT._replace(flags=3)),
        (GOOD + b"\n", None),
        (GOOD[:-1], None),
        (b"\xff" * 55, None),
    ],
)
def test_a_parent_is_read_by_its_rules(value: bytes, found: TraceContext | None) -> None:
    assert context_in([(b"traceparent", value)]) == found


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        ([b"a=1"], b"a=1"),
        ([b"a=1, b=2 ", b"", b" c@d=3"], b"a=1,b=2,c@d=3"),
        ([b"a=1", b"a=2"], b""),
        ([b"a"], b""),
        ([b"A=1"], b""),
        ([b"a=x=y"], b""),
        ([b"a=\xe4"], b""),
        ([b"a=" + b"x" * 256], b"a=" + b"x" * 256),
        ([b"a=" + b"x" * 257], b""),
        ([b",".join(b"k%d=1" % n for n in range(32))], b",".join(b"k%d=1" % n for n in range(32))),
        ([b",".join(b"k%d=1" % n for n in range(33))], b""),
    ],
)
def test_a_state_is_passed_on_if_it_is_valid(states: list[bytes], kept: bytes) -> None:
    found = context_in([(b"traceparent", GOOD), *((b"tracestate", state) for state in states)])
    assert found is not None
    assert found.state == kept


@given(
    st.lists(st.tuples(st.sampled_from([b"traceparent", b"tracestate"]), st.binary(max_size=80)), max_size=4)
)
def test_no_bytes_break_it(headers: list[tuple[bytes, bytes]]) -> None:
    found = context_in(headers)
    assert found is None or found.trace_id


def test_lines_are_read_back_as_they_were_written() -> None:
    lines = header_lines(CONTEXT.trace_id, 5, 1, b"a=1")
    headers = [tuple(line.split(b": ")) for line in lines.split(b"\r\n")[:-1]]
    assert context_in(headers) == CONTEXT._replace(span_id=5, state=b"a=1")  # type: ignore[arg-type]


def test_ids_are_random_and_never_zero() -> None:
    assert len({new_span_id() for _ in range(1000)}) == 1000


# Sampling


@pytest.mark.parametrize("share", [0.0, 0.001, 0.25, 0.9999, 1.0])
def test_the_share_chooses_as_opentelemetry_does(share: float) -> None:
    theirs = TraceIdRatioBased(share)
    draw = random.Random(7)
    for _ in range(2000):
        trace_id = draw.getrandbits(128)
        chosen = theirs.should_sample(None, trace_id, "").decision is Decision.RECORD_AND_SAMPLE
        assert Sampler(share).takes(trace_id, None) is chosen


@pytest.mark.parametrize(
    ("share", "environ", "sampler"),
    [
        (None, {}, Sampler(1.0)),
        (0.5, {"OTEL_TRACES_SAMPLER": "always_off"}, Sampler(0.5)),
        (None, {"OTEL_TRACES_SAMPLER": "always_off"}, Sampler(0.0, False)),
        (None, {"OTEL_TRACES_SAMPLER": "always_on"}, Sampler(1.0, False)),
        (None, {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, Sampler(0.0)),
        (
            None,
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"},
            Sampler(0.25, False),
        ),
        (
            None,
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
            Sampler(0.1),
        ),
        (
            None,
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "9"},
            Sampler(1.0),
        ),
        (
            None,
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "x"},
            Sampler(1.0),
        ),
        (None, {"OTEL_TRACES_SAMPLER": "jaeger_remote"}, Sampler(1.0)),
    ],
)
def test_the_setting_comes_before_the_variable(
    share: float | None, environ: dict[str, str], sampler: Sampler
) -> None:
    assert sampler_of(share, environ) == sampler


def test_the_parent_decides_unless_the_sampler_does_not_ask() -> None:
    sampled, not_sampled = CONTEXT, CONTEXT._replace(flags=0)
    assert Sampler(0.0).takes(5, sampled)
    assert not Sampler(1.0).takes(5, not_sampled)
    assert Sampler(1.0, asks_parent=False).takes(5, not_sampled)
    assert not Sampler(0.0, asks_parent=False).takes(5, sampled)
