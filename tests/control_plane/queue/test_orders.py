"""The orders of waiting requests: laws that each keeps, and what tells them apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.config.settings import POLICIES
from sage_inference.control_plane.policies import policy_named
from sage_inference.control_plane.queue.orders import AGING_S, CHEAP, LIVE, ORDERS, OVERDUE, Order
from sage_inference.types import RequestPriority, SchedulingRequest
from tests.control_plane.parts import Clock, request
from tests.control_plane.queue.test_group_queue import order_of

each_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
REQUESTS = st.builds(
    request,
    arrived=st.floats(0, 100),
    tokens=st.integers(1, 100_000),
    priority=st.sampled_from(RequestPriority),
    deadline_ms=st.none() | st.floats(1, 60_000),
)
FEW = settings(max_examples=25)
OLDEST = st.floats(0, 100) | st.just(math.inf)


@each_order
@FEW
@given(asked=REQUESTS, predicted_ms=st.floats(0, 60_000))
def test_a_place_is_a_band_of_the_order_and_a_key(
    order: Order, asked: SchedulingRequest, predicted_ms: float
) -> None:
    band, key, overdue_at = order.place(asked, predicted_ms)
    assert band in range(order.bands)
    assert math.isfinite(key)
    assert order.defers or overdue_at == math.inf  # otherwise nobody would take it out of its band
    assert not order.defers or order.bands > OVERDUE


@each_order
@FEW
@given(data=st.data())
def test_a_band_that_is_picked_has_requests(order: Order, data: st.DataObject) -> None:
    oldest: Sequence[float] = data.draw(st.lists(OLDEST, min_size=order.bands, max_size=order.bands))
    picked = order.pick(oldest)
    assert picked in range(order.bands)
    assert oldest[picked] < math.inf or all(arrived == math.inf for arrived in oldest)


@each_order
@FEW
@given(arrivals=st.lists(st.integers(0, 500), min_size=1, max_size=12, unique=True))
def test_equal_requests_go_in_the_order_of_their_arrival(order: Order, arrivals: list[int]) -> None:
    asked = [request(ms, arrived=ms / 1000) for ms in arrivals]
    assert order_of(order.name, asked, 0.5) == [str(ms) for ms in sorted(arrivals)]


@each_order
@FEW
@given(asked=REQUESTS, later=st.floats(0.001, 100))
def test_a_later_twin_has_no_smaller_key(order: Order, asked: SchedulingRequest, later: float) -> None:
    twin = request(
        1,
        asked.prompt_tokens,
        arrived=asked.arrived + later,
        priority=asked.priority,
        deadline_ms=asked.slo_deadline_ms,
    )
    first, second = order.place(asked, 3.0), order.place(twin, 3.0)
    assert first[0] == second[0]
    assert first[1] <= second[1]
    assert first[2] <= second[2]


@each_order
@FEW
@given(asked=st.lists(REQUESTS, max_size=12), now=st.floats(100, 2000))
def test_each_request_is_placed_once(order: Order, asked: list[SchedulingRequest], now: float) -> None:
    for number, each in enumerate(asked):
        each.request_id = str(number)
    assert sorted(order_of(order.name, asked, now), key=int) == [str(n) for n in range(len(asked))]


@FEW
@given(st.lists(st.sampled_from(RequestPriority), min_size=1, max_size=12))
def test_priority_puts_levels_that_came_together_in_their_order(levels: list[RequestPriority]) -> None:
    asked = [request(f"{int(level)} {n}", arrived=n / 1000, priority=level) for n, level in enumerate(levels)]
    placed = [int(name.split()[0]) for name in order_of("priority", asked, 1)]
    assert placed == sorted(placed)


@FEW
@given(st.sampled_from(RequestPriority), st.sampled_from(RequestPriority), st.floats(0.01, 100))
def test_priority_lets_a_wait_of_ten_seconds_make_up_for_a_level(
    one: RequestPriority, other: RequestPriority, later: float
) -> None:
    asked = [request("one", arrived=0, priority=one), request("other", arrived=later, priority=other)]
    head_start = later + AGING_S * (int(other) - int(one))
    if abs(head_start) > 0.001:
        assert order_of("priority", asked, 200)[0] == ("one" if head_start > 0 else "other")


@pytest.mark.parametrize("name", [name for name, order in ORDERS.items() if order.defers])
@FEW
@given(asked=st.lists(REQUESTS, min_size=1, max_size=12), now=st.floats(100, 130))
def test_one_that_is_late_never_goes_before_one_in_time(
    name: str, asked: list[SchedulingRequest], now: float
) -> None:
    order, in_time = ORDERS[name], {}
    for number, each in enumerate(asked):
        each.request_id = str(number)
        # None has waited twice its SLO: that has a law of its own.
        each.arrived = max(each.arrived, now - 1.7)
        if each.slo_deadline_ms is not None:
            each.slo_deadline_ms = max(each.slo_deadline_ms, 900.0)
        in_time[str(number)] = order.place(each, each.prompt_tokens * 0.03)[2] > now
    placed = [in_time[name] for name in order_of(order.name, asked, now)]
    assert placed == sorted(placed, reverse=True)


def test_bands_of_a_deferring_order_are_those_in_time_then_cheap_late_ones_then_the_late() -> None:
    for order in ORDERS.values():
        if order.defers:
            nobody = math.inf
            assert order.pick([1.0, 0.0, 0.0]) == LIVE
            assert order.pick([nobody, 1.0, 0.0]) == CHEAP
            assert order.pick([nobody, nobody, 0.0]) == OVERDUE


def test_adaptive_counts_what_a_prompt_takes_and_slo_aware_does_not() -> None:
    long, short = request("long", 10_000, arrived=0.1), request("short", 10, arrived=0.2)
    assert order_of("slo_aware", [long, short], 0.3) == ["long", "short"]
    assert order_of("adaptive", [long, short], 0.3) == ["short", "long"]


@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_has_an_order(policy: str) -> None:
    assert policy_named(policy, Clock()).order in ORDERS
