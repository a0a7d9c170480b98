"""What counts, what is measured, and over which time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.bench.exchange import Kind, PreparedRequest, TimedExchange
from sage_inference.bench.report import Figures
from sage_inference.bench.slo import SloLimits
from sage_inference.bench.tally import Tally, Times, total
from sage_inference.bench.window import Window

WINDOW = Window(10.0, 20.0)


def exchange(
    due: float,
    ended: float,
    *,
    kind: Kind = Kind.CHAT,
    arrivals: tuple[float, ...] = (),
    tokens: int | None = None,
) -> TimedExchange:
    made = TimedExchange(PreparedRequest(kind, b""), due)
    made.sent, made.ended = due, ended
    made.reading.arrivals = list(arrivals)
    made.reading.output_tokens = tokens
    made.reading.prompt_tokens = 5
    return made


def failing(due: float, ended: float, error: str, detail: str) -> TimedExchange:
    made = exchange(due, ended)
    made.failed(error, detail, ended)
    return made


def figures(*exchanges: TimedExchange, slo: SloLimits | None = None) -> Figures:
    tally = Tally()
    for each in exchanges:
        tally.add(each, WINDOW, slo or SloLimits())
    return Figures.of(tally, WINDOW, slo or SloLimits())


def test_latencies_are_of_requests_due_in_the_window_rates_of_answers_that_came_in_it() -> None:
    found = figures(exchange(9, 11), exchange(12, 13), exchange(19, 23), exchange(8, 9))
    assert (found.sent, found.ok) == (2, 2)
    assert found.e2e is not None
    assert (found.e2e.count, found.e2e.max) == (2, 4000)
    assert found.requests_per_s == 0.2
    assert found.prompt_tokens_per_s == 1.0


def test_times_of_a_stream() -> None:
    stream = exchange(10, 13, kind=Kind.STREAM, arrivals=(10.5, 11.0, 12.5), tokens=5)
    assert Times.of(stream) == Times(e2e=3.0, ttft=0.5, tpot=0.5)
    found = figures(stream)
    assert found.inter_chunk is not None
    assert (found.inter_chunk.count, found.inter_chunk.p50, found.inter_chunk.max) == (2, 500, 1500)
    assert (found.output_tokens_per_s, found.chunks_per_s) == (0.5, 0.3)


def test_waiting_to_be_sent_is_part_of_the_latency() -> None:
    late = exchange(10, 13, kind=Kind.STREAM, arrivals=(12.5,))
    late.sent = 12.0
    assert Times.of(late) == Times(e2e=3.0, ttft=2.5)


def test_what_comes_of_a_stream_in_the_window_counts_wherever_the_stream_begins_or_ends() -> None:
    arrivals = (8.0, 9.0, 11.0, 12.0)
    before = exchange(8, 12, kind=Kind.STREAM, arrivals=arrivals, tokens=8)
    after = exchange(19, 23, kind=Kind.STREAM, arrivals=(19.5, 20.0, 20.5, 21.0))
    found = figures(before, after)
    assert found.chunks_per_s * 10 == 2 + 2
    assert found.output_tokens_per_s * 10 == 4 + 2  # half of 8; and without usage, each piece


def test_where_no_usage_is_told_each_piece_of_text_is_a_token() -> None:
    stream = exchange(10, 13, kind=Kind.STREAM, arrivals=(10.5, 11.0, 12.5))
    assert Times.of(stream).tpot == 1.0
    assert figures(stream).output_tokens_per_s == 0.3


def test_one_token_has_no_time_per_output_token() -> None:
    assert Times.of(exchange(10, 11, kind=Kind.STREAM, arrivals=(10.5,), tokens=1)) == Times(1.0, 0.5)


def test_failures_are_counted_by_kind_with_the_words_of_the_first_and_measured_not_at_all() -> None:
    found = figures(
        failing(11, 12, "http_503", "first"),
        failing(11, 12, "closed", ""),
        failing(11, 12, "http_503", "second"),
        failing(9, 12, "http_503", "in the warm-up"),
        exchange(11, 12),
    )
    assert (found.sent, found.ok, found.failed) == (4, 1, 3)
    assert [(kind, one.count, one.example) for kind, one in found.errors.items()] == [
        ("http_503", 2, "first"),
        ("closed", 1, ""),
    ]
    assert found.e2e is not None
    assert found.e2e.count == 1


def test_goodput_is_of_those_that_kept_every_limit_and_a_failure_keeps_none() -> None:
    slo = SloLimits(e2e=1500)
    found = figures(
        exchange(11, 12), exchange(11, 13), exchange(19, 20.5), failing(11, 11.1, "closed", ""), slo=slo
    )
    assert (found.good, found.good_share, found.good_per_s) == (2, 0.5, 0.1)
    assert figures(exchange(11, 12)).good_per_s is None


def test_what_was_broken_off_is_neither_ok_nor_failed() -> None:
    tally = Tally()
    tally.abandon(exchange(12, 0, kind=Kind.STREAM, arrivals=(13.0, 21.0)), WINDOW, 22.0)
    tally.abandon(exchange(9, 0), WINDOW, 22.0)
    assert (tally.sent, tally.ok, tally.failed, tally.abandoned, tally.chunks) == (1, 0, 0, 1, 1)


@given(
    moments=st.lists(
        st.tuples(st.floats(0, 30), st.floats(0, 5), st.booleans(), st.sampled_from(list(Kind))), max_size=30
    )
)
def test_all_is_the_sum_of_the_kinds_and_every_request_is_ok_or_failed(
    moments: list[tuple[float, float, bool, Kind]],
) -> None:
    tallies = {kind: Tally() for kind in Kind}
    for due, took, fails, kind in moments:
        made = failing(due, due + took, "closed", "") if fails else exchange(due, due + took, kind=kind)
        tallies[kind].add(made, WINDOW, SloLimits())
    whole = total(tallies.values())
    assert whole.sent == whole.ok + whole.failed == sum(due >= WINDOW.start for due, *_ in moments)
    assert whole.ok == len(whole.e2e) == sum(tally.ok for tally in tallies.values())
    assert sum(failures.count for failures in whole.errors.values()) == whole.failed


@pytest.mark.parametrize("kind", list(Kind))
def test_a_summary_never_changes_what_it_sums_up(kind: Kind) -> None:
    tally = Tally()
    tally.add(exchange(11, 12, kind=kind), WINDOW, SloLimits())
    assert total([tally, tally]).ok == 2
    assert (tally.ok, len(tally.e2e)) == (1, 1)
