"""No log, however strange, makes an error of its reader, and none costs much CPU."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.config.settings import ManagedEngineSettings
from sage_inference.engines.managed.failures import explain
from sage_inference.engines.managed.progress import StartPhase, StartProgress
from sage_inference.keeper.spec import ExitRecord
from sage_inference.simulator.starting.failures_printed import TEI_FAILURES, VLLM_FAILURES

RECORDED = Path(__file__).parents[2] / "fixtures" / "engines" / "starts"
QWEN = ManagedEngineSettings(model="Qwen/Qwen2.5-7B-Instruct")
LINES = [
    *(line for file in sorted(RECORDED.glob("*.log")) for line in file.read_text().splitlines()),
    *(failure.error for rows in (VLLM_FAILURES, TEI_FAILURES) for failure in rows.values()),
]
FRAGMENTS = st.one_of(
    st.sampled_from(LINES),
    st.text(max_size=40),
    st.sampled_from(
        [
            "9" * 5000,
            "1.2.3",
            "%",
            "| 0/0",
            "\r",
            "\x1b[31m",
            "\x00",
            "GiB",
            "Error: ",
            "(EngineCore pid=",
            "{",
            "`",
        ]
    ),
)


@st.composite
def logs(draw: st.DrawFn) -> list[str]:
    """Lines of recorded logs, cut somewhere and joined with others."""
    found = []
    for _ in range(draw(st.integers(1, 12))):
        first, second = draw(FRAGMENTS), draw(FRAGMENTS)
        at = draw(st.integers(0, max(len(first), 1)))
        found.append(first[:at] + second + first[at:])
    return found


@given(
    lines=logs(),
    status=st.sampled_from([0, 1, 2, 101, None]),
    signal=st.sampled_from([None, 9, 11, 64, 200]),
    phase=st.sampled_from([None, *StartPhase]),
    was_ready=st.booleans(),
)
@settings(max_examples=30)
def test_any_log_is_explained_in_one_line(
    lines: list[str], status: int | None, signal: int | None, phase: StartPhase | None, was_ready: bool
) -> None:
    end = ExitRecord(status, signal, 0.0, ordered=False, oom_killed=False)
    found = explain(lines, end, phase, was_ready, QWEN)
    assert 0 < len(found.message) < 4000
    assert f"{found.message}{found.hint or ''}".isprintable()


@given(lines=logs())
@settings(max_examples=30)
def test_any_log_moves_a_start_forward_only(lines: list[str]) -> None:
    progress, order = StartProgress(), list(StartPhase)
    highest = 0
    for line in lines:
        progress.line(line)
        moment = progress.progress
        assert moment.share is None or 0 <= moment.share <= 1
        rank = order.index(moment.phase)
        assert rank >= highest or {moment.phase, order[highest]} <= {StartPhase.FETCH, StartPhase.LOAD}
        highest = rank


@pytest.mark.parametrize(
    "part",
    ["x", "a/", "9", "Loading ", "Loading a ", "(", "EngineCore ", "Downloading ", "0%|", "'", "//a/b/", "max seq len (1) ", "error: ", ": failed to "],
)  # fmt: skip
def test_a_line_of_any_repeated_word_costs_little(part: str) -> None:
    line = (part * 16384)[:16384]
    before = time.process_time()
    for _ in range(2):
        explain([line], None, None, False, QWEN)
        StartProgress().line(line)
    assert time.process_time() - before < 1.5
