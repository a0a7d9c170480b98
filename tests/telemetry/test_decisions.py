"""What the record of a decision says, and that it stays small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sage_inference.cli.schemas import ATTEMPT
from sage_inference.control_plane.policies.base import Loads
from sage_inference.control_plane.policies.cost import backlog_ms, cost_ms
from sage_inference.telemetry.decision_document import document, why
from sage_inference.telemetry.decision_file import DecisionFile
from sage_inference.telemetry.decisions import Attempt, DecisionLog
from sage_inference.types import (
    ExecutionInstance,
    InstanceLoad,
    RequestMetadata,
    RequestType,
    SchedulingDecision,
    Usage,
)
from tests.cli.shape import mistakes

NOW = 100.0


class Ticket:
    def __init__(self, request_id: str = "r") -> None:
        self.request = RequestMetadata(
            request_id,
            RequestType.LLM_CHAT,
            "m",
            "/v1/chat/completions",
            prompt_tokens=1000,
            arrived=NOW - 0.5,
        )


def two_instances() -> tuple[ExecutionInstance, ExecutionInstance]:
    busy = ExecutionInstance("busy", "h", 1, active_requests=3)
    busy.load = InstanceLoad(pending_tokens=5000, progress_at=NOW - 0.02, ms_per_token=0.04)
    return busy, ExecutionInstance("idle", "h", 2)


def decided(log: DecisionLog, ticket: Ticket, *group: ExecutionInstance) -> Attempt:
    return log.placed(ticket, SchedulingDecision(ticket.request.request_id, "idle", "cheapest"), group, NOW)


def test_costs_are_those_that_the_policies_compute() -> None:
    group = two_instances()
    ticket = Ticket()
    ticket.request.cached_tokens = {group[0]: 640}
    shown = document(decided(DecisionLog(), ticket, *group), epoch=0.0)["candidates"]
    loads = Loads(group)
    for each, instance in zip(shown, group, strict=True):
        assert each["cost_ms"] == pytest.approx(cost_ms(ticket.request, instance, NOW, loads), abs=0.01)
        assert each["backlog_ms"] == pytest.approx(backlog_ms(instance, NOW, loads), abs=0.01)
    assert [each["chosen"] for each in shown] == [False, True]
    assert shown[0]["cached_tokens"] == 640


def test_the_load_is_that_of_the_decision_not_of_later() -> None:
    busy, idle = two_instances()
    attempt = decided(DecisionLog(), Ticket(), busy, idle)
    busy.active_requests, busy.load.pending_tokens = 99, 0
    assert [c["running"] for c in document(attempt, 0.0)["candidates"]] == [3, 0]


def test_an_attempt_says_what_came_of_it() -> None:
    log = DecisionLog()
    attempt = decided(log, Ticket(), *two_instances())
    before = document(attempt, epoch=1000.0)
    assert mistakes(before, ATTEMPT) == []
    assert (before["outcome"], before["first_byte_ms"], before["prompt_tokens_estimated"]) == (
        None,
        None,
        True,
    )
    log.close(attempt, NOW + 0.25, NOW + 1.0, "done", 200, Usage(900, 40, 512))
    after = document(attempt, epoch=1000.0)
    assert mistakes(after, ATTEMPT) == []
    assert (after["waited_ms"], after["first_byte_ms"], after["duration_ms"]) == (500, 250, 1000)
    assert (after["prompt_tokens"], after["completion_tokens"], after["cached_tokens"]) == (900, 40, 512)
    assert after["arrived_ms"] == (1000 + NOW - 0.5) * 1000


def test_why_fits_into_a_header() -> None:
    line = why(decided(DecisionLog(), Ticket(), *two_instances()))
    assert line == "idle: cheapest; predicted: busy 252 ms, idle 30 ms"


def test_only_the_newest_are_kept() -> None:
    log = DecisionLog(kept=3)
    for number in range(5):
        decided(log, Ticket(f"r{number}"), *two_instances())
    assert [len(log.of(f"r{number}")) for number in range(5)] == [0, 0, 1, 1, 1]


def file(path: Path, **how: int) -> tuple[DecisionLog, DecisionFile]:
    log, written = DecisionLog(), DecisionFile(path, 0.0, **how)
    log.on_end = written.add
    return log, written


def end(log: DecisionLog, request_id: str) -> None:
    log.close(decided(log, Ticket(request_id), *two_instances()), None, NOW + 1, "cut", 200, None)


def ids(path: Path) -> list[str]:
    return [json.loads(line)["request_id"] for line in path.read_text().splitlines()]


def test_a_file_gets_each_attempt_that_ended_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "record.jsonl"
    log, written = file(path)
    decided(log, Ticket("runs"), *two_instances())
    end(log, "a")
    written.write()
    end(log, "b")
    written.write()
    written.write()
    assert ids(path) == ["a", "b"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_file_makes_way_for_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    log, written = file(path, largest=3000)
    for number in range(6):
        end(log, f"r{number}")
        written.write()
    assert ids(path)[-1] == "r5"
    assert path.stat().st_size <= 3000
    assert (tmp_path / "record.jsonl.1").stat().st_size <= 3000


def test_a_file_that_cannot_be_written_is_told_once_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "folder").mkdir()
    log, written = file(tmp_path / "folder")
    for number in range(3):
        end(log, f"r{number}")
        written.write()
    assert len(caplog.records) == 1
    assert "decisions are not recorded" in caplog.text
