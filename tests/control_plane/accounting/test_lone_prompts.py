"""The time to the first byte of prompts that nothing precedes: a constant, and a time for each token."""

from __future__ import annotations

import pytest

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.cost import expected_ms
from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.control_plane.policies import policy_named
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.control_plane.setup import SchedulerSettings
from sage_inference.requests.rejection import Rejection
from sage_inference.telemetry.decisions.document import document
from sage_inference.types import ExecutionInstance, RequestType, SchedulingDecision, SchedulingRequest, Usage

ROUTE = "/v1/chat/completions"


class Asked:
    """A submission that is placed and does nothing else."""

    def __init__(self, request: SchedulingRequest) -> None:
        self.request, self.size, self.tried, self.place = request, 100, (), None

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None: ...

    def refused(self, refusal: Rejection) -> None:
        raise refusal


class Engine:
    """A scheduler with one engine that takes ``constant_ms`` and ``token_ms`` for a prompt."""

    def __init__(self, constant_ms: float, token_ms: float) -> None:
        self.constant_ms, self.token_ms, self.now = constant_ms, token_ms, 1000.0
        self.instance = ExecutionInstance("a", "h", 1, models=("m",), routes={ROUTE})
        registry = Registry({})
        registry.add(self.instance)
        self.attempts: list[Placement] = []
        self.scheduler = Scheduler(
            registry,
            policy_named("hybrid", lambda: self.now),
            SchedulerSettings(LimitSettings()),
            lambda: self.now,
        )
        self.scheduler.watch(self.attempts.append)

    def ask(
        self, tokens: int, *, extra_ms: float = 0.0, usage: bool = True, deadline_ms: float | None = None
    ) -> None:
        """One request, answered before the next one comes."""
        self.now += 1.0
        request = SchedulingRequest(
            str(len(self.attempts)),
            RequestType.LLM_CHAT,
            "m",
            ROUTE,
            prompt_tokens=tokens,
            arrived=self.now,
            streams=True,
            slo_deadline_ms=deadline_ms,
        )
        asked = Asked(request)
        self.scheduler.submit(asked)  # type: ignore[arg-type]
        self.now += (self.constant_ms + self.token_ms * tokens + extra_ms) / 1000
        self.scheduler.first_byte(asked)  # type: ignore[arg-type]
        self.now += 0.5
        self.scheduler.release(asked, Usage(tokens, 20) if usage else None, "done", 200)  # type: ignore[arg-type]

    def predicted(self) -> float:
        found: float = document(self.attempts[-1], 0.0)["predicted_first_byte_ms"]
        return found


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize(("constant", "token"), [(20.0, 0.02), (2.0, 0.03), (150.0, 0.11), (0.0, 0.03)])
def test_short_and_long_prompts_are_both_predicted(constant: float, token: float, usage: bool) -> None:
    engine = Engine(constant, token)
    for number in range(80):
        engine.ask((40, 300, 1200, 5000)[number % 4], usage=usage)
    for tokens in (40, 300, 1200, 5000):
        engine.ask(tokens, usage=usage)
        assert engine.predicted() == pytest.approx(constant + token * tokens, rel=0.1, abs=2.0)


def test_prompts_that_are_all_alike_are_predicted_too() -> None:
    engine = Engine(20.0, 0.02)
    for _ in range(60):
        engine.ask(30)
    engine.ask(30)
    assert engine.predicted() == pytest.approx(20.6, rel=0.1)


def test_before_the_first_answer_the_pace_decides() -> None:
    engine = Engine(20.0, 0.02)
    engine.ask(1000)
    assert engine.predicted() == 30.0


def test_one_answer_that_hangs_makes_no_difference() -> None:
    engine = Engine(20.0, 0.02)
    for _ in range(60):
        engine.ask(300)
    engine.ask(300, extra_ms=60_000)
    engine.ask(300)
    assert engine.predicted() < 40


def test_an_engine_that_became_slower_is_followed() -> None:
    engine = Engine(20.0, 0.02)
    for _ in range(60):
        engine.ask(300)
    engine.constant_ms = 400.0
    for _ in range(2400):  # in the end one in 32 is read
        engine.ask(300)
    assert engine.predicted() == pytest.approx(406, rel=0.2)


def test_a_deadline_that_the_constant_breaks_is_refused() -> None:
    engine = Engine(80.0, 0.02)
    engine.ask(100, deadline_ms=50)
    for _ in range(60):
        engine.ask(100)
    with pytest.raises(Rejection):
        engine.ask(100, deadline_ms=50)
    engine.ask(100, deadline_ms=120)


@pytest.mark.parametrize(
    ("backlog", "alone", "expected"),
    [
        (0.0, (0.0, 0.0), 30.0),  # nothing was learned
        (0.0, (20.0, 0.02), 40.0),
        (5.0, (20.0, 0.02), 40.0),  # the constant passes meanwhile
        (500.0, (20.0, 0.02), 530.0),
    ],
)
def test_behind_other_prompts_the_constant_is_only_the_least(
    backlog: float, alone: tuple[float, float], expected: float
) -> None:
    assert expected_ms(0.03, backlog, 1000, alone) == pytest.approx(expected)


def test_prompts_behind_others_teach_no_line() -> None:
    engine = Engine(20.0, 0.02)
    asked = [
        Asked(
            SchedulingRequest(
                str(n), RequestType.LLM_CHAT, "m", ROUTE, prompt_tokens=300, arrived=engine.now, streams=True
            )
        )
        for n in range(3)
    ]
    for each in asked:
        engine.scheduler.submit(each)  # type: ignore[arg-type]
    for each in asked:
        engine.now += 0.05
        engine.scheduler.first_byte(each)  # type: ignore[arg-type]
    assert [attempt.alone_ms > 0 for attempt in engine.attempts] == [True, False, False]
