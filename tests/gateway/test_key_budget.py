"""The law of a key's budget, on a virtual clock."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, KeyLimitSettings
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.gateway.key_limits.budget import Hold, KeyBudget, Limit
from sage_inference.gateway.key_limits.budgets import KeyBudgets
from sage_inference.gateway.key_limits.day import DAY_S
from sage_inference.gateway.key_limits.models import matches
from sage_inference.gateway.key_limits.window import MinuteWindow


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Rig:
    """A budget on a clock that the test moves."""

    limits: KeyLimitSettings
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.budget = KeyBudget("k", self.clock, self.clock)
        self.budget.limits = self.limits

    def begin(self, tokens: int = 0) -> Hold | None:
        if self.budget.exceeded() is not None:
            return None
        hold = self.budget.enter()
        hold.reserve(tokens)
        return hold


STEPS = st.lists(
    st.tuples(
        st.floats(0, 40),
        st.sampled_from(["begin", "reserve", "end", "refund", "twice"]),
        st.integers(0, 400),
        st.integers(0, 20),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_nothing_leaks_and_nothing_is_negative(steps: list[tuple[float, str, int, int]]) -> None:
    rig = Rig(
        KeyLimitSettings(
            requests_per_minute=9, tokens_per_minute=900, tokens_per_day=5000, concurrent_requests=4
        )
    )
    budget = rig.budget
    open_holds: list[Hold] = []
    for wait, what, tokens, which in steps:
        rig.clock.now += wait
        hold = open_holds[which % len(open_holds)] if open_holds else None
        if what == "begin":
            begun = rig.begin(tokens)
            if begun is not None:
                open_holds.append(begun)
        elif hold is not None and what == "reserve":
            hold.reserve(tokens)
        elif hold is not None:
            hold.end(tokens, refund=what == "refund")
            open_holds.remove(hold)
            if what == "twice":
                hold.end(tokens, refund=True)
                hold.reserve(500)
        assert budget.active == len(open_holds) <= 4
        assert budget.reserved == sum(each.reserved for each in open_holds) >= 0
        assert budget.tokens.total >= 0
        assert budget.requests.total >= 0
        assert budget.remaining_tokens() >= 0
    for each in open_holds:
        each.end(1)
    assert (budget.active, budget.reserved) == (0, 0)
    rig.clock.now += 61
    assert budget.remaining_requests() == 9
    assert budget.remaining_tokens() == 900


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50)), max_size=80))
def test_the_window_has_all_of_the_last_minute_and_little_more(steps: list[tuple[float, int]]) -> None:
    window, now, added = MinuteWindow(), 0.0, list[tuple[float, int]]()
    for wait, amount in steps:
        now += wait
        window.add(amount, window.advance(now))
        added.append((now, amount))
        exact = sum(amount for at, amount in added if at > now - 60)
        assert exact <= window.total <= sum(amount for at, amount in added if at > now - 60.51)
    for most in (0, window.total // 2):
        wait = window.wait(now, most)
        window.advance(now + wait + 1e-6)
        assert window.total <= most
        now += wait + 1e-6


@pytest.mark.parametrize("seed", range(2))
def test_no_minute_has_more_than_the_limit_and_a_busy_key_gets_all_of_it(seed: int) -> None:
    """Three minutes of more work than the limits allow: streams, cancels, estimates that are wrong by much."""
    dice = random.Random(seed)
    rig = Rig(KeyLimitSettings(tokens_per_minute=20000, requests_per_minute=100_000))
    under_way: list[tuple[float, Hold, int]] = []
    arrived: list[tuple[float, int]] = []
    largest = 0
    for step in range(9000):
        rig.clock.now = 1000 + step * 0.02
        for entry in [each for each in under_way if each[0] <= rig.clock.now]:
            under_way.remove(entry)
            entry[1].end(entry[2])
        used = dice.randrange(10, 400)
        hold = rig.begin(used + dice.randrange(400))  # as ``max_tokens`` bounds it
        if hold is not None:
            under_way.append((rig.clock.now + dice.uniform(0.01, 6), hold, used))
            arrived.append((rig.clock.now, used))
            largest = max(largest, hold.reserved, used)

    def used_from(begin: float) -> int:
        return sum(tokens for at, tokens in arrived if begin <= at < begin + 60)

    assert all(used_from(begin) <= 20000 + largest for begin in range(1000, 1120, 3))
    assert used_from(1000) >= 20000 * 0.98
    # Requests under way hold more than they will use: so much of the limit is unused at each moment.
    assert sum(tokens for _, tokens in arrived) >= 3 * 20000 * 0.9


def test_requests_are_exact_in_every_minute() -> None:
    rig = Rig(KeyLimitSettings(requests_per_minute=30))
    times: list[float] = []
    for step in range(13000):
        rig.clock.now = 1000 + step * 0.01
        hold = rig.begin()
        if hold is not None:
            hold.end(0)
            times.append(rig.clock.now)
    for first, later in zip(times, times[30:], strict=False):
        assert 60 <= later - first <= 60.6


def test_a_day_ends_at_midnight_by_utc_and_not_when_the_clock_is_set_back() -> None:
    rig = Rig(KeyLimitSettings(tokens_per_day=100))
    rig.clock.now = 100 * DAY_S - 10
    hold = rig.begin(50)
    assert hold is not None
    hold.end(100)
    exceeded = rig.budget.exceeded()
    assert exceeded is not None
    assert (exceeded.limit, exceeded.wait_s, exceeded.is_used_up) == (Limit.DAY, 10, True)
    rig.clock.now += 11
    assert rig.budget.exceeded() is None
    hold = rig.begin()
    assert hold is not None
    hold.end(100)
    rig.clock.now -= 11  # by NTP
    assert rig.budget.exceeded() is not None


def test_a_reservation_keeps_out_others_only_while_it_lasts() -> None:
    rig = Rig(KeyLimitSettings(tokens_per_minute=100))
    hold = rig.begin(100)
    assert hold is not None
    exceeded = rig.budget.exceeded()
    assert exceeded is not None
    assert (exceeded.limit, exceeded.wait_s) == (Limit.TOKENS, 1.0)
    hold.end(3)
    assert rig.begin(1) is not None


def test_budgets_of_keys_that_are_gone_are_kept_only_while_they_count() -> None:
    clock = Clock(100 * DAY_S)
    budgets = KeyBudgets(Registry({}), clock, clock)
    limits = KeyLimitSettings(requests_per_minute=5, tokens_per_day=100)

    def configure(*names: str) -> None:
        budgets.configure([ApiKeySettings(key=Secret(name), name=name, limits=limits) for name in names])

    configure("unused", "used", "by requests only")
    used, by_requests = budgets.by_name["used"], budgets.by_name["by requests only"]
    used.enter().end(7)
    by_requests.enter().end(0)
    configure()
    assert set(budgets._former) == {"used", "by requests only"}
    configure("used")
    assert budgets.of("used") is used
    clock.now += 61
    configure()
    assert set(budgets._former) == {"used"}
    clock.now += DAY_S
    configure()
    assert budgets._former == {}


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("m", "m", True),
        ("m", "mm", False),
        ("*", "", True),
        ("a*", "a", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*/bge-*", "BAAI/bge-m3", True),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "acb", False),
        ("qwen.", "qwenx", False),
        ("*a*a*a*a*a*b", "a" * 1024, False),
    ],
)
def test_a_star_stands_for_any_text(pattern: str, name: str, found: bool) -> None:
    assert matches(pattern, name) is found
