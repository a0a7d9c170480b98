"""What the record of a decision says, and that it stays small."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from statistics import median

import pytest

from sage_inference.cli.schemas import ATTEMPT
from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.policies import policy_named
from sage_inference.control_plane.policies.base import Loads
from sage_inference.control_plane.policies.cost import backlog_ms, cost_ms
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.replay.fleet import llm_fleet
from sage_inference.replay.jobs import Job
from sage_inference.replay.run import Run
from sage_inference.telemetry.decisions.document import document, explain_line
from sage_inference.telemetry.decisions.file import DecisionFile
from sage_inference.telemetry.decisions.log import DecisionLog
from sage_inference.types import EngineState, ExecutionInstance, SchedulingRequest, Usage
from tests.cli.shape import mistakes
from tests.control_plane.parts import EMBED, Clock, Submitted, instance, manager, request, submit

NOW = 1000.0
BLOCKS = tuple(range(10))


class Recorded:
    """A busy and an idle instance under a manager whose decisions are logged."""

    def __init__(self, kept: int = 1024, *more: ExecutionInstance) -> None:
        self.busy, self.idle = instance("busy"), instance("idle")
        self.busy.active_requests = 3
        load = self.busy.load
        load.pending_tokens, load.progress_at, load.ms_per_token = 5000, NOW - 0.02, 0.04
        self.clock = Clock()
        self.manager: Scheduler = manager(self.busy, self.idle, *more, clock=self.clock)
        self.log = DecisionLog(kept)
        self.manager.watch(self.log.add)

    @property
    def group(self) -> tuple[ExecutionInstance, ...]:
        return self.busy, self.idle

    def submit(self, what: SchedulingRequest | None = None) -> tuple[Submitted, Placement]:
        submission = submit(self.manager, what or request("r", 1000, arrived=NOW - 0.5))
        return submission, self.log.of(submission.request.request_id)[-1]

    def end(self, name: str) -> None:
        self.manager.release(self.submit(request(name))[0], None, "cut", 200)


def test_costs_are_those_that_the_policies_compute() -> None:
    recorded = Recorded()
    expected = Recorded()  # as it was before the decision
    expected.busy.active_requests = 3
    what = request("r", 1000, blocks=BLOCKS)
    recorded.manager._selector.prefixes.add(recorded.busy, what)
    _, attempt = recorded.submit(what)
    shown = document(attempt, epoch=0.0)["candidates"]
    loads = Loads(expected.group)
    asked = request("r", 1000)
    asked.cached_tokens = {expected.busy: 640}
    for each, one in zip(shown, expected.group, strict=True):
        assert each["cost_ms"] == pytest.approx(cost_ms(asked, one, NOW, loads), abs=0.01)
        assert each["backlog_ms"] == pytest.approx(backlog_ms(one, NOW, loads), abs=0.01)
    assert [each["chosen"] for each in shown].count(True) == 1
    assert shown[0]["cached_tokens"] == 640


@pytest.mark.parametrize("policy", ["hybrid", "adaptive"])
@pytest.mark.parametrize("change", [3.0, 0.3, 1.2])
def test_costs_are_reckoned_with_the_paces_that_decided(policy: str, change: float) -> None:
    """Also where a pace was measured anew since the policy last looked, or by what the choice itself teaches."""
    recorded = Recorded()
    recorded.manager.use(policy_named(policy, recorded.clock))
    for each in recorded.group:  # none of them is ever closed
        each.load.window_tokens = math.inf
    for number in range(8):
        recorded.submit(request(number, 1000))
        recorded.idle.load.ms_per_token *= change
        _, attempt = recorded.submit(request(f"r{number}", 1000))
        shown = document(attempt, 0.0)["candidates"]
        assert min(shown, key=lambda each: each["cost_ms"])["chosen"]
        recorded.busy.load.ms_per_token *= change


def test_costs_do_not_depend_on_an_instance_that_could_not_be_chosen() -> None:
    down = instance("down")
    recorded = Recorded(1024, down)
    for each, pace in ((recorded.busy, 0.03), (recorded.idle, 0.05), (down, 0.04)):
        each.load.ms_per_token = pace
    down.state = EngineState.EJECTED
    _, attempt = recorded.submit()
    shown = {each["instance"]: each["prompt_ms"] for each in document(attempt, 0.0)["candidates"]}
    assert (shown["busy"], shown["idle"]) == (30.0, 50.0)


def test_the_load_is_that_of_the_decision_not_of_later() -> None:
    recorded = Recorded()
    _, attempt = recorded.submit()
    recorded.busy.active_requests, recorded.busy.load.pending_tokens = 99, 0
    assert [c["running"] for c in document(attempt, 0.0)["candidates"]] == [3, 0]


def test_an_attempt_says_what_came_of_it() -> None:
    recorded = Recorded()
    submission, attempt = recorded.submit()
    before = document(attempt, epoch=1000.0)
    assert mistakes(before, ATTEMPT) == []
    assert (before["outcome"], before["first_byte_ms"], before["prompt_tokens_estimated"]) == (
        None,
        None,
        True,
    )
    recorded.clock.now = NOW + 0.25
    recorded.manager.first_byte(submission)
    recorded.clock.now = NOW + 1.0
    recorded.manager.release(submission, Usage(900, 40, 512), "done", 200)
    after = document(attempt, epoch=1000.0)
    assert mistakes(after, ATTEMPT) == []
    assert (after["outcome"], after["status"]) == ("done", 200)
    assert (after["waited_ms"], after["first_byte_ms"], after["duration_ms"]) == (500, 250, 1000)
    assert (after["prompt_tokens"], after["completion_tokens"], after["cached_tokens"]) == (900, 40, 512)
    assert after["arrived_ms"] == (1000 + NOW - 0.5) * 1000


def in_one_piece(
    recorded: Recorded, name: str, tokens: int, *, took_s: float, usage: bool = True
) -> Placement:
    """An answer of so many tokens, whose first byte came with the last."""
    submission, attempt = recorded.submit(request(name, 1000, arrived=recorded.clock.now, streams=False))
    recorded.clock.now += took_s
    recorded.manager.first_byte(submission)
    recorded.manager.release(submission, Usage(1000, tokens) if usage else None, "done", 200)
    return attempt


def test_an_answer_in_one_piece_is_predicted_as_a_whole() -> None:
    recorded = Recorded()
    recorded.busy.state = EngineState.EJECTED
    first = document(in_one_piece(recorded, "first", 100, took_s=1.035), 0.0)
    assert (first["in_one_piece"], first["predicted_first_byte_ms"]) == (True, None)  # no pace is known yet
    assert first["predicted_prompt_ms"] == 35.0
    for number in range(5):
        in_one_piece(recorded, f"r{number}", 100, took_s=1.035)
    known = document(in_one_piece(recorded, "known", 300, took_s=3.035), 0.0)
    assert mistakes(known, ATTEMPT) == []
    assert known["predicted_first_byte_ms"] == pytest.approx(3030, rel=0.05)
    assert known["first_byte_ms"] == known["duration_ms"] == 3035
    unread = document(in_one_piece(recorded, "unread", 300, took_s=3.035, usage=False), 0.0)
    assert (unread["predicted_first_byte_ms"], unread["predicted_prompt_ms"]) == (None, 35.0)


def test_predictions_of_whole_answers_are_near_what_they_took() -> None:
    """Simulated: two of four instances three times slower, half of what they can take."""
    rng = random.Random(6)
    fleet = llm_fleet(4)
    for gpu in fleet.gpus[:2]:
        gpu.slow_down(3)
    run = Run(policy_named("hybrid", fleet.clock), fleet)
    ended: list[Placement] = []
    run.scheduler.watch(lambda attempt: None, ended.append)
    run.play(
        [Job(33.0 * n, rng.randint(100, 2000), rng.randint(50, 300), streams=False) for n in range(1000)]
    )
    found = [document(attempt, 0.0) for attempt in ended]
    ratios = [d["duration_ms"] / d["predicted_first_byte_ms"] for d in found if d["predicted_first_byte_ms"]]
    assert len(ratios) > 100
    assert 0.8 < median(ratios) < 1.25


def test_streams_and_embeddings_are_predicted_by_their_prompts() -> None:
    recorded = Recorded(1024, instance("embeds", model="e", route=EMBED))
    streamed = document(recorded.submit()[1], 0.0)
    embedded = document(recorded.submit(request("e", 1000, model="e", route=EMBED, streams=False))[1], 0.0)
    for each in (streamed, embedded):
        assert each["in_one_piece"] is False
        assert each["predicted_first_byte_ms"] == each["predicted_prompt_ms"] > 0


def test_choices_of_an_answer_are_made_side_by_side() -> None:
    recorded = Recorded()
    recorded.busy.state = EngineState.EJECTED
    for number in range(5):
        in_one_piece(recorded, f"r{number}", 100, took_s=1.035)
    attempt = in_one_piece(recorded, "four", 400, took_s=1.035)
    attempt.answers = 4
    assert document(attempt, 0.0)["predicted_first_byte_ms"] == pytest.approx(1030, rel=0.05)


def test_why_fits_into_a_header() -> None:
    _, attempt = Recorded().submit()
    assert explain_line(attempt) == "idle: cheapest; predicted: busy 218 ms, idle 35 ms"


def test_only_the_newest_are_kept() -> None:
    recorded = Recorded(kept=3)
    for number in range(5):
        recorded.submit(request(number))
    assert [len(recorded.log.of(str(number))) for number in range(5)] == [0, 0, 1, 1, 1]


def recorded_to(path: Path, **how: int) -> tuple[Recorded, DecisionFile]:
    recorded, written = Recorded(), DecisionFile(path, lambda: 0.0, lambda request: "hybrid", **how)
    recorded.manager.watch(recorded.log.add, written.add)
    return recorded, written


def ids(path: Path) -> list[str]:
    return [json.loads(line)["request_id"] for line in path.read_text().splitlines()]


def test_a_file_gets_each_attempt_that_ended_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "record.jsonl"
    recorded, written = recorded_to(path)
    recorded.submit(request("runs"))
    recorded.end("a")
    written.write()
    recorded.end("b")
    written.write()
    written.write()
    assert ids(path) == ["a", "b"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_file_makes_way_for_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    recorded, written = recorded_to(path, largest=3000)
    for number in range(6):
        recorded.end(f"r{number}")
        written.write()
    assert ids(path)[-1] == "r5"
    assert path.stat().st_size <= 3000
    assert (tmp_path / "record.jsonl.1").stat().st_size <= 3000


def test_a_file_that_cannot_be_written_is_told_once_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "folder").mkdir()
    recorded, written = recorded_to(tmp_path / "folder")
    for number in range(3):
        recorded.end(f"r{number}")
        written.write()
    assert len(caplog.records) == 1
    assert "decisions are not recorded" in caplog.text
